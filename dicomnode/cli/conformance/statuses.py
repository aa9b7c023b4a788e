"""The statuses that an operation may end with, read off its code: what that names, and the tables it looks into."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import msgspec

from dicomnode.dimse import status
from dicomnode.dimse.responder import Responder
from dicomnode.errors import NodeError

_OF_CODE: dict[int, str] = {}
for _name, _value in vars(status).items():
    if _name.isupper() and not _name.startswith("_") and isinstance(_value, int):
        _OF_CODE.setdefault(_value, _name)

_HOME = ("dicomnode.roles.storescp", "dicomnode.dimse.responder")
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})


class Status(msgspec.Struct, frozen=True, order=True):
    """A status, what it says, and what brings it about, "" where its name says it all."""

    code: int
    meaning: str
    cause: str = ""

    @property
    def kind(self) -> str:
        """The class of the status (PS3.7 C)."""
        if status.is_pending(self.code):
            return "Pending"
        if self.code in (status.SUCCESS, status.CANCELLED):
            return "Success" if self.code == status.SUCCESS else "Cancel"
        return "Warning" if self.code & 0xF000 == 0xB000 or self.code in _WARNINGS else "Failure"


def statuses_of(*operations: Callable[..., Any]) -> list[Status]:
    """Return the statuses that `operations`, methods of the DIMSE door, may answer with, by code."""
    found: dict[tuple[int, str], dict[str, None]] = {}
    seen = set[int]()
    for operation in operations:
        for name, cause in _method(operation, seen):
            causes = found.setdefault((getattr(status, name), name), {})
            causes.update({cause: None} if cause else {})
    return sorted(Status(code, _words(name), " ".join(causes)) for (code, name), causes in found.items())


def statuses_of_any() -> list[Status]:
    """Return the statuses that any request may be answered with before it comes to an operation, by code."""
    found = {(getattr(status, name), name) for name, _ in _known(Responder, Responder, set())}
    return sorted(Status(code, _words(name)) for code, name in found)


def _words(name: str) -> str:
    text = name.replace("_", " ").lower().replace("sop ", "SOP ").replace("suboperations", "sub-operations")
    return text[0].upper() + text[1:]


def _method(operation: Callable[..., Any], seen: set[int]) -> Iterator[tuple[str, str]]:
    function = inspect.unwrap(getattr(operation, "__func__", operation))
    owner = type(getattr(operation, "__self__", None))
    yield from _code(function.__code__, vars(sys.modules[function.__module__]), owner, seen)


def _code(code: CodeType, names: Mapping[str, Any], owner: type, seen: set[int]) -> Iterator[tuple[str, str]]:
    if id(code) in seen:
        return
    seen.add(id(code))
    for name in code.co_names:
        if name.isupper() and isinstance(getattr(status, name, None), int):
            yield name, ""
        else:
            yield from _known(names.get(name, getattr(owner, name, None)), owner, seen)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, names, owner, seen)


def _known(found: object, owner: type, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield what a function, a class or a table of the door names."""
    if isinstance(found, FunctionType) and found.__module__.startswith(_HOME):
        yield from _code(found.__code__, found.__globals__, owner, seen)
    elif isinstance(found, type) and found.__module__.startswith(_HOME):
        for member in vars(found).values():
            yield from _known(member, found, seen)
    elif isinstance(found, tuple) and id(found) not in seen:
        seen.add(id(found))
        yield from _table(found)


def _table(rows: tuple[object, ...]) -> Iterator[tuple[str, str]]:
    for row in rows:
        match row:
            case (type() as error, int(code)) if issubclass(error, NodeError) and code in _OF_CODE:
                yield _OF_CODE[code], (error.__doc__ or "").strip().splitlines()[0]
