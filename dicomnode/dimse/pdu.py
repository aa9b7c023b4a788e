"""Protocol data units: their types, their fixed heads, and the short ones in bytes (PS3.8 9.3). No I/O."""

from __future__ import annotations

from struct import Struct

from dicomnode.errors import PeerError

ASSOCIATE_RQ = 0x01
ASSOCIATE_AC = 0x02
ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
RELEASE_RQ = 0x05
RELEASE_RP = 0x06
ABORT = 0x07

HEAD = Struct(">BxI")  # type, reserved, length of what follows
PDV_HEAD = Struct(">IBB")  # length of what follows, context ID, message control header
COMMAND_FRAGMENT = 0x01
LAST_FRAGMENT = 0x02

# 128 contexts of 40 transfer syntaxes are 137 KB; dcmtk's largest request is 20 KB.
ASSOCIATE_MAX = 256 * 1024

# Reasons of A-ABORT by the service provider (PS3.8 table 9-26).
NOT_SPECIFIED = 0
UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
UNRECOGNIZED_PARAMETER = 4
UNEXPECTED_PARAMETER = 5
INVALID_VALUE = 6


class Breach(PeerError):
    """The peer broke the protocol; `reason` is what A-ABORT tells it (PS3.8 table 9-26)."""

    def __init__(self, problem: str, reason: int = INVALID_VALUE) -> None:
        super().__init__(problem)
        self.reason = reason


class Garbage(PeerError):
    """What arrived first is not DICOM: a web browser, TLS, a port scanner."""


class Rejection(PeerError):
    """The association is refused with A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    def __init__(self, problem: str, result: int, source: int, reason: int) -> None:
        super().__init__(problem, transient=result == 2)
        self.result = result
        self.source = source
        self.reason = reason


def check_head(kind: int, length: int, p_data_max: int, associate_max: int = ASSOCIATE_MAX) -> None:
    """Raise Breach unless a PDU of this type may be this long; nothing has been allocated for it yet."""
    if kind == P_DATA_TF:
        fits = 6 <= length <= p_data_max
    elif kind in (ASSOCIATE_RQ, ASSOCIATE_AC):
        fits = 68 <= length <= associate_max
    elif 0 < kind <= ABORT:
        fits = length == 4
    else:
        raise Breach(f"a PDU of type {kind:#04x}", UNRECOGNIZED_PDU)
    if not fits:
        raise Breach(f"a PDU of type {kind:#04x} said to be {length} bytes long")


def release_rq() -> bytes:
    """Return an A-RELEASE-RQ (PS3.8 9.3.6)."""
    return b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


def release_rp() -> bytes:
    """Return an A-RELEASE-RP (PS3.8 9.3.7)."""
    return b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"


def abort(*, by_provider: bool, reason: int = NOT_SPECIFIED) -> bytes:
    """Return an A-ABORT; the reason counts only when the provider aborts (PS3.8 9.3.8)."""
    return bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, 2 if by_provider else 0, reason if by_provider else 0))


def associate_rj(rejection: Rejection) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return bytes((ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, rejection.result, rejection.source, rejection.reason))


def p_data_head(context_id: int, control: int, size: int) -> bytes:
    """Return the heads of a P-DATA-TF that holds one PDV of `size` bytes, which are to follow (PS3.8 9.3.5)."""
    return HEAD.pack(P_DATA_TF, size + 6) + PDV_HEAD.pack(size + 2, context_id, control)
