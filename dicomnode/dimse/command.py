"""The command set of a DIMSE message: group 0000 in implicit VR little endian (PS3.7 6.3, annex E). No I/O."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec

from dicomnode.dimse.pdu import Breach

# Command fields (PS3.7 E.1).
RESPONSE = 0x8000
C_STORE_RQ = 0x0001
C_GET_RQ = 0x0010
C_FIND_RQ = 0x0020
C_MOVE_RQ = 0x0021
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RQ = 0x0100
N_GET_RQ = 0x0110
N_SET_RQ = 0x0120
N_ACTION_RQ = 0x0130
N_CREATE_RQ = 0x0140
N_DELETE_RQ = 0x0150
C_CANCEL_RQ = 0x0FFF

NO_DATA_SET = 0x0101
DATA_SET = 0x0001

MEDIUM = 0x0000
HIGH = 0x0001
LOW = 0x0002


class Command(msgspec.Struct, frozen=True):
    """A command set. What a message does not hold is "" or None; texts are without padding.

    `responding_to` is Message ID Being Responded To (also of C-CANCEL). `tenant` is the element (1211,1217) that some
    senders add, which the standard does not know.
    """

    command_field: int
    data_set: bool = False
    message_id: int = 0
    responding_to: int = 0
    affected_sop_class_uid: str = ""
    affected_sop_instance_uid: str = ""
    requested_sop_class_uid: str = ""
    requested_sop_instance_uid: str = ""
    priority: int = MEDIUM
    status: int | None = None
    error_comment: str = ""
    error_id: int | None = None
    move_destination: str = ""
    move_originator_aet: str = ""
    move_originator_message_id: int | None = None
    event_type_id: int | None = None
    action_type_id: int | None = None
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    attributes: tuple[int, ...] = ()
    tenant: str = ""


class Originator(msgspec.Struct, frozen=True):
    """Who asked, by C-MOVE, for an object to be sent, and in which message (PS3.7 9.1.1.1.7)."""

    ae_title: str
    message_id: int


_ELEMENT = Struct("<HHI")
_US_ELEMENT = Struct("<HHIH")
_UL_ELEMENT = Struct("<HHII")


def _us(value: bytes) -> int:
    return int.from_bytes(value[:2], "little")


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _write_us(element: int, value: int) -> bytes:
    return _US_ELEMENT.pack(0, element, 2, value)


def _write_text(element: int, value: str, pad: bytes = b" ") -> bytes:
    raw = value.encode("ascii", "replace")
    if len(raw) & 1:
        raw += pad
    return _ELEMENT.pack(0, element, len(raw)) + raw


def _write_uid(element: int, value: str) -> bytes:
    return _write_text(element, value, b"\0")


def _tags(value: bytes) -> tuple[int, ...]:
    return tuple(group << 16 | element for group, element in _TAG.iter_unpack(value[: len(value) & ~3]))


def _write_tags(element: int, tags: tuple[int, ...]) -> bytes:
    raw = b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in tags)
    return _ELEMENT.pack(0, element, len(raw)) + raw


_TAG = Struct("<HH")

_Form = tuple[Callable[[bytes], Any], Callable[[int, Any], bytes]]
_NUMBER: _Form = (_us, _write_us)
_STRING: _Form = (_text, _write_text)
_UID: _Form = (_text, _write_uid)
_TAGS: _Form = (_tags, _write_tags)
_PRESENCE: _Form = (
    lambda value: _us(value) != NO_DATA_SET,
    lambda element, value: _write_us(element, DATA_SET if value else NO_DATA_SET),
)

_ELEMENTS: dict[int, tuple[str, _Form]] = {
    0x0002: ("affected_sop_class_uid", _UID),
    0x0003: ("requested_sop_class_uid", _UID),
    0x0100: ("command_field", _NUMBER),
    0x0110: ("message_id", _NUMBER),
    0x0120: ("responding_to", _NUMBER),
    0x0600: ("move_destination", _STRING),
    0x0700: ("priority", _NUMBER),
    0x0800: ("data_set", _PRESENCE),
    0x0900: ("status", _NUMBER),
    0x0902: ("error_comment", _STRING),
    0x0903: ("error_id", _NUMBER),
    0x1000: ("affected_sop_instance_uid", _UID),
    0x1001: ("requested_sop_instance_uid", _UID),
    0x1002: ("event_type_id", _NUMBER),
    0x1005: ("attributes", _TAGS),
    0x1008: ("action_type_id", _NUMBER),
    0x1020: ("remaining", _NUMBER),
    0x1021: ("completed", _NUMBER),
    0x1022: ("failed", _NUMBER),
    0x1023: ("warning", _NUMBER),
    0x1030: ("move_originator_aet", _STRING),
    0x1031: ("move_originator_message_id", _NUMBER),
}
_READ = {element: (name, form[0]) for element, (name, form) in _ELEMENTS.items()}
_READ[0x1211_1217] = ("tenant", _text)
_GROUPS = frozenset({0x0000, 0x1211})


def decode(command_set: bytes) -> Command:
    """Return the command that these bytes are; elements that are not needed are passed over.

    Raises: Breach, when they are no command set, or one without a command field.
    """
    found: dict[str, Any] = {}
    position, end = 0, len(command_set)
    read, head = _READ, _ELEMENT.unpack_from
    while position + 8 <= end:
        group, element, length = head(command_set, position)
        position += 8
        if length > end - position:
            raise Breach("a command set that is none")
        if group not in _GROUPS:
            raise Breach("a command set that is none")
        field = read.get(group << 16 | element)
        if field is not None and length:
            found[field[0]] = field[1](command_set[position : position + length])
        position += length
    if position != end or "command_field" not in found:
        raise Breach("a command set that is cut short")
    return Command(**found)


def encode(command: Command) -> bytes:
    """Return the command set of `command`, elements ascending, every length even; what is empty is left out."""
    left_out = _left_out(command.command_field)
    values = (
        (element, getattr(command, name), form) for element, (name, form) in _ELEMENTS.items() if name not in left_out
    )
    return _with_length(b"".join(form[1](element, value) for element, value, form in values if value not in _EMPTY))


_EMPTY = ("", None, ())


def _left_out(command_field: int) -> frozenset[str]:
    if command_field & RESPONSE or command_field == C_CANCEL_RQ:
        return _OF_REQUESTS
    return _OF_RESPONSES if command_field in _WITH_PRIORITY else _OF_RESPONSES | {"priority"}


_OF_REQUESTS = frozenset({"message_id", "priority"})
_OF_RESPONSES = frozenset({"responding_to"})
_WITH_PRIORITY = frozenset({C_STORE_RQ, C_GET_RQ, C_FIND_RQ, C_MOVE_RQ})


def _with_length(body: bytes) -> bytes:
    return _UL_ELEMENT.pack(0, 0, 4, len(body)) + body


def encode_store_rq(
    message_id: int, sop_class_uid: str, sop_instance_uid: str, move: Originator | None = None
) -> bytes:
    """Return a C-STORE-RQ's command set; what `encode` returns for it, sooner (PS3.7 9.3.1.1)."""
    return _with_length(
        _write_uid(0x0002, sop_class_uid)
        + _FOUR_NUMBERS.pack(0, 0x0100, 2, C_STORE_RQ, 0, 0x0110, 2, message_id, 0, 0x0700, 2, MEDIUM, 0, 0x0800, 2, 1)
        + _write_uid(0x1000, sop_instance_uid)
        + (_write_text(0x1030, move.ae_title) + _write_us(0x1031, move.message_id) if move else b"")
    )


_FOUR_NUMBERS = Struct("<HHIHHHIHHHIHHHIH")


def encode_store_rsp(request: Command, status: int) -> bytes:
    """Return the command set that answers C-STORE `request`; what `encode` returns for it, sooner (PS3.7 9.3.1.2)."""
    to = request.message_id
    body = _FOUR_NUMBERS.pack(0, 0x0100, 2, 0x8001, 0, 0x0120, 2, to, 0, 0x0800, 2, NO_DATA_SET, 0, 0x0900, 2, status)
    if request.affected_sop_class_uid:
        body = _write_uid(0x0002, request.affected_sop_class_uid) + body
    if request.affected_sop_instance_uid:
        body += _write_uid(0x1000, request.affected_sop_instance_uid)
    return _with_length(body)
