"""Where a value that metadata refer to by BulkDataURI lies: paths such as 7FE00010 or 00081140/1/00081150."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from dicomnode.dicom.frames import swap
from dicomnode.dicom.scan import BIG, LITTLE, CutShort, Element, Walk, looks_implicit
from dicomnode.dicom.transfer_syntax import TransferSyntax
from dicomnode.errors import BadInstance, BadRequest, NotFound

_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[1-9][0-9]{0,6}/[0-9A-Fa-f]{8}){0,63}")
_WORDS: Final = {"OW": 2, "US": 2, "SS": 2, "OF": 4, "OL": 4, "UL": 4, "FL": 4, "OD": 8, "OV": 8, "FD": 8}


class Value(msgspec.Struct, frozen=True):
    """Bytes `offset` to `offset + length` of the data set; each `word` of them is to be reversed if that is not 1."""

    offset: int
    length: int
    word: int = 1

    def little_endian(self, read: bytes) -> bytes:
        """Return the value's bytes with their words little endian."""
        return swap(read, self.word) if self.word > 1 else read


def parse_bulk_path(text: str) -> tuple[int, ...]:
    """Return the tags and item numbers (from 1) of a path, in turn. Raises: BadRequest."""
    if not _PATH.fullmatch(text):
        raise BadRequest("the path of a bulk value is tags of 8 hex digits with item numbers between them")
    return tuple(int(part, 16 if n % 2 == 0 else 10) for n, part in enumerate(text.split("/")))


def find_value(data_set: bytes, syntax: TransferSyntax, path: tuple[int, ...], *, complete: bool) -> Value | None:
    """Return where the value at `path` lies; None where that needs more bytes than the head `data_set`.

    Raises: NotFound, BadInstance.
    """
    walk = Walk(data_set, BIG if syntax.big_endian else LITTLE, to_pixels=not complete)
    try:
        implicit = looks_implicit(data_set, 0, len(data_set), syntax.implicit)
        elements, _ = walk.data_set(0, len(data_set), implicit, 0)
        found = _within(walk, data_set, elements, implicit, path)
    except CutShort as error:
        if complete:
            raise BadInstance(str(error)) from None
        return None
    if found is None:
        if not complete:
            return None
        raise NotFound("the instance has no such value")
    return Value(found[2], found[3], _WORDS.get(found[1] or "", 1) if syntax.big_endian else 1)


def _within(walk: Walk, data: bytes, elements: list[Element], implicit: bool, path: tuple[int, ...]) -> Element | None:
    """Follow `path` from `elements`; no deeper than it is long, which its grammar caps."""
    found = next((element for element in elements if element[0] == path[0]), None)
    for depth, (number, tag) in enumerate(zip(path[1::2], path[2::2], strict=True)):
        if found is None:
            return None
        _, vr, at, length, items, _ = found
        if items is None:
            inner = implicit or (vr == "UN" and looks_implicit(data, at + 8, at + length, assumed=True))
            items, _ = walk.items(at, at + length, inner, depth)
        if number > len(items):
            return None
        implicit, elements = items[number - 1]
        found = next((element for element in elements if element[0] == tag), None)
    return found
