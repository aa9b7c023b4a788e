"""A strict walk over an A-ASSOCIATE PDU from a stranger: every length is checked, everything counted (PS3.8 9.3.2).

pynetdicom's decoder takes 0.2 s for the largest request that is allowed and trusts the lengths in it, so it is not
used on what strangers send; what we send is made with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

import msgspec

from dicomnode.dicom.uid import is_uid
from dicomnode.dimse.pdu import Breach

CONTEXTS_MOST = 128
SYNTAXES_MOST = 128
USER_ITEMS_MOST = 512
RELATED_MOST = 64  # general SOP classes that one SOP class is related to

_ITEM = Struct(">BxH")
_FIXED = Struct(">H2x16s16s32x")

APPLICATION_CONTEXT = 0x10
CONTEXT_RQ = 0x20
CONTEXT_AC = 0x21
ABSTRACT_SYNTAX = 0x30
TRANSFER_SYNTAX = 0x40
USER_INFORMATION = 0x50
MAXIMUM_LENGTH = 0x51
IMPLEMENTATION_CLASS = 0x52
OPERATIONS_WINDOW = 0x53
ROLE_SELECTION = 0x54
IMPLEMENTATION_VERSION = 0x55
EXTENDED_NEGOTIATION = 0x56
COMMON_EXTENDED_NEGOTIATION = 0x57
USER_IDENTITY_RQ = 0x58
USER_IDENTITY_AC = 0x59


class Role(msgspec.Struct, frozen=True):
    """What the requestor would be, or may be, for a SOP class (PS3.7 D.3.3.4)."""

    scu: bool
    scp: bool


class Proposal(msgspec.Struct, frozen=True):
    """A presentation context as it is asked for; `role` is what the requestor would be, None for SCU alone."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    role: Role | None = None


class Answer(msgspec.Struct, frozen=True):
    """A presentation context as it is answered; 0 is acceptance (PS3.8 table 9-18)."""

    context_id: int
    result: int
    transfer_syntax: str


class Identity(msgspec.Struct, frozen=True):
    """Who the requestor says it is (PS3.7 D.3.3.7). Never to be logged."""

    kind: int
    answer_wanted: bool
    primary: bytes
    secondary: bytes

    def __repr__(self) -> str:
        return f"Identity(kind={self.kind})"


class Window(msgspec.Struct, frozen=True):
    """How many operations the requestor may invoke and perform at a time; 0 is any number (PS3.7 D.3.3.3)."""

    invoked: int = 1
    performed: int = 1


class Kinship(msgspec.Struct, frozen=True):
    """What service a SOP class belongs to, and which general SOP classes it is like (PS3.7 D.3.3.6)."""

    service_class_uid: str
    related: tuple[str, ...] = ()


class UserInformation(msgspec.Struct, frozen=True):
    """What both ends tell about themselves. `max_pdu` in bytes, 0 for any; `confirmed` answers an identity."""

    max_pdu: int = 0
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    roles: dict[str, Role] = {}
    extended: dict[str, bytes] = {}
    kinships: dict[str, Kinship] = {}
    window: Window | None = None
    identity: Identity | None = None
    confirmed: bool = False


class Associate(msgspec.Struct, frozen=True):
    """An A-ASSOCIATE-RQ or -AC, taken apart. `titles` are the two AE titles as sent."""

    version: int
    titles: bytes
    called_aet: str
    calling_aet: str
    application_context: str
    proposals: tuple[Proposal, ...]
    answers: tuple[Answer, ...]
    user: UserInformation


def read(body: bytes) -> Associate:
    """Return what an A-ASSOCIATE-RQ or -AC says, given without its head; unknown items are passed over.

    Raises: Breach, for a length that lies, a number beyond its cap, or a value outside its range.
    """
    if len(body) < _FIXED.size:
        raise Breach("an A-ASSOCIATE that is cut short")
    version, called, calling = _FIXED.unpack_from(body)
    application_context, user = "", UserInformation()
    proposals: dict[int, Proposal] = {}
    answers: dict[int, Answer] = {}
    for kind, value in _items(body[_FIXED.size :], CONTEXTS_MOST + 16):
        if kind == CONTEXT_RQ:
            proposal = _proposal(value)
            if proposal.context_id in proposals or not proposal.context_id & 1:
                raise Breach("presentation context IDs that are even or repeat")
            proposals[proposal.context_id] = proposal
        elif kind == CONTEXT_AC:
            answer = _answer(value)
            answers[answer.context_id] = answer
        elif kind == USER_INFORMATION:
            user = _user(value)
        elif kind == APPLICATION_CONTEXT:
            application_context = _uid(value)
    return Associate(
        version, body[4:36], _title(called), _title(calling), application_context,
        tuple(proposals.values()), tuple(answers.values()), user,
    )  # fmt: skip


def _items(data: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    position, end, count = 0, len(data), 0
    while position < end:
        if end - position < 4:
            raise Breach("an A-ASSOCIATE item that is cut short")
        kind, length = _ITEM.unpack_from(data, position)
        position += 4
        count += 1
        if length > end - position:
            raise Breach("an A-ASSOCIATE item longer than what holds it")
        if count > most:
            raise Breach("too many A-ASSOCIATE items")
        yield kind, data[position : position + length]
        position += length


def _proposal(value: bytes) -> Proposal:
    if len(value) < 4:
        raise Breach("a presentation context that is cut short")
    abstract, syntaxes = "", []
    for kind, inner in _items(value[4:], SYNTAXES_MOST + 1):
        if kind == ABSTRACT_SYNTAX:
            abstract = _uid(inner)
        elif kind == TRANSFER_SYNTAX:
            syntaxes.append(_uid(inner))
    return Proposal(value[0], abstract, tuple(syntaxes))


def _answer(value: bytes) -> Answer:
    if len(value) < 4:
        raise Breach("a presentation context that is cut short")
    syntax = ""
    for kind, inner in _items(value[4:], SYNTAXES_MOST):
        if kind == TRANSFER_SYNTAX:
            syntax = _uid(inner)
    return Answer(value[0], value[2], syntax)


def _user(value: bytes) -> UserInformation:
    found: dict[str, Any] = {"roles": {}, "extended": {}, "kinships": {}}
    for kind, inner in _items(value, USER_ITEMS_MOST):
        if kind in _ONE_OF_ITS_KIND:
            name, read_one = _ONE_OF_ITS_KIND[kind]
            found[name] = read_one(inner)
        elif kind in _ONE_A_CLASS:
            name, read_rest = _ONE_A_CLASS[kind]
            uid, rest = _counted(inner)
            read = read_rest(rest)
            if is_uid(sop_class := _uid(uid)):  # the answer repeats it, and what we say is right
                found[name][sop_class] = read
    return UserInformation(**found)


def _length(value: bytes) -> int:
    if len(value) != 4:
        raise Breach("a maximum length that is no number")
    return int.from_bytes(value, "big")


def _version(value: bytes) -> str:
    return _title(value[:16])


def _window(value: bytes) -> Window:
    if len(value) != 4:
        raise Breach("an asynchronous operations window that is none")
    return Window(int.from_bytes(value[:2], "big"), int.from_bytes(value[2:], "big"))


def _role(value: bytes) -> Role:
    if len(value) != 2:
        raise Breach("a role selection that is none")
    return Role(bool(value[0]), bool(value[1]))


def _kinship(value: bytes) -> Kinship:
    service, rest = _counted(value)
    listed = _counted(rest)[0] if rest else b""  # what may follow is reserved
    related = []
    while listed:
        uid, listed = _counted(listed)
        related.append(_uid(uid))
        if len(related) > RELATED_MOST:
            raise Breach("too many related general SOP classes")
    return Kinship(_uid(service), tuple(related))


def _counted(value: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(value[:2], "big")
    if len(value) < 2 or size > len(value) - 2:
        raise Breach("an A-ASSOCIATE item longer than what holds it")
    return value[2 : 2 + size], value[2 + size :]


def _identity(value: bytes) -> Identity:
    if len(value) < 2:
        raise Breach("a user identity that is cut short")
    primary, rest = _counted(value[2:])
    secondary, _ = _counted(rest)
    return Identity(value[0], bool(value[1]), primary, secondary)


_NOT_UID = re.compile(r"[^0-9.]")


def _uid(value: bytes) -> str:
    """Return the UID, or "" for what cannot be one; leading zeros and odd dots pass, as real devices send them."""
    text = value.decode("ascii", "replace").strip(" \0")
    return text if len(text) <= 64 and not _NOT_UID.search(text) else ""


_NOT_PRINTABLE = re.compile(r"[^ -~]")


def _title(value: bytes) -> str:
    return _NOT_PRINTABLE.sub("?", value.decode("latin-1").strip(" \0"))


_Read = Callable[[bytes], Any]
_ONE_OF_ITS_KIND: dict[int, tuple[str, _Read]] = {
    MAXIMUM_LENGTH: ("max_pdu", _length),
    IMPLEMENTATION_CLASS: ("implementation_class_uid", _uid),
    IMPLEMENTATION_VERSION: ("implementation_version_name", _version),
    OPERATIONS_WINDOW: ("window", _window),
    USER_IDENTITY_RQ: ("identity", _identity),
    USER_IDENTITY_AC: ("confirmed", lambda _value: True),
}
_ONE_A_CLASS: dict[int, tuple[str, _Read]] = {
    ROLE_SELECTION: ("roles", _role),
    EXTENDED_NEGOTIATION: ("extended", bytes),
    COMMON_EXTENDED_NEGOTIATION: ("kinships", _kinship),
}
