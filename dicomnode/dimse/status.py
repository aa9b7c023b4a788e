"""Statuses of DIMSE responses, and what they mean to a sender (PS3.7 annex C, PS3.4 B.2.3)."""

from __future__ import annotations

SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_WITH_WARNING = 0xFF01
CANCELLED = 0xFE00
_PENDING = frozenset({PENDING, PENDING_WITH_WARNING})

ATTRIBUTES_NOT_SUPPORTED = 0x0001  # a warning of N-GET
INVALID_ATTRIBUTE_VALUE = 0x0106
ATTRIBUTE_LIST_ERROR = 0x0107  # a warning: some attributes were passed over
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_SOP_INSTANCE = 0x0112
NO_SUCH_EVENT_TYPE = 0x0113
NO_SUCH_ARGUMENT = 0x0114
INVALID_ARGUMENT_VALUE = 0x0115
CLASS_INSTANCE_CONFLICT = 0x0119
MISSING_ATTRIBUTE = 0x0120
MISSING_ATTRIBUTE_VALUE = 0x0121
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORIZED = 0x0124
MISTYPED_ARGUMENT = 0x0212
UNRECOGNIZED_OPERATION = 0x0211
RESOURCE_LIMITATION = 0x0213
NO_SUCH_ACTION = 0x0123

OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

# C-FIND, C-MOVE and C-GET (PS3.4 C.4).
UNABLE_TO_CALCULATE_MATCHES = 0xA701
UNABLE_TO_PERFORM_SUBOPERATIONS = 0xA702
MOVE_DESTINATION_UNKNOWN = 0xA801
IDENTIFIER_DOES_NOT_MATCH = 0xA900
SUBOPERATIONS_WITH_FAILURES = 0xB000

# Attribute list error and attribute value out of range: kept, with a remark. A duplicate is there already.
_KEPT_WITH_REMARK = frozenset({0x0107, 0x0116, DUPLICATE_SOP_INSTANCE})


def is_pending(status: int | None) -> bool:
    """Tell whether more responses follow (PS3.7 C.2): matches or sub-operations go on."""
    return status in _PENDING


def is_stored(status: int) -> bool:
    """Tell whether the receiver keeps the object: success or a warning (PS3.4 B.2.3, PS3.7 C.3)."""
    return status == SUCCESS or (status & 0xF000) == 0xB000 or status == 0x0001 or status in _KEPT_WITH_REMARK


def is_warning(status: int) -> bool:
    """Tell whether the object is kept and the receiver has something to say about it."""
    return status != SUCCESS and is_stored(status)


def is_transient(status: int) -> bool:
    """Tell whether the same object may be taken later: out of resources (PS3.4 B.2.3)."""
    return (status & 0xFF00) == 0xA700
