"""How deep the sequences of a data set are nested, told without walking them: what is kept must be readable later."""

from __future__ import annotations

import re
import sys
from typing import Final

from dicomnode.dicom.scan import MAX_DEPTH, UNDEFINED, Grammar
from dicomnode.errors import BadInstance

LEAST_BYTES: Final = 16 * MAX_DEPTH
"""In fewer bytes nothing is nested too deep: a level is the header of an item and that of a sequence."""

_ENOUGH = 32_768
_FIRST_BYTES = 14  # the longest header of an element, and the group of its first item
_GROUP = {False: b"\xfe\xff", True: b"\xff\xfe"}
_MARK = {
    False: re.compile(rb"\xfe\xff(?:\x00\xe0(?=(.{4}))|\x0d\xe0)", re.DOTALL),
    True: re.compile(rb"\xff\xfe(?:\xe0\x00(?=(.{4}))|\xe0\x0d)", re.DOTALL),
}


def check_element(data: bytes | memoryview, at: int, after: int, grammar: Grammar) -> None:
    """Raise BadInstance if the element from `at` to `after` is a sequence that is nested too deep."""
    if _GROUP[grammar.big_endian] in bytes(data[at + 8 : at + _FIRST_BYTES]):
        check_stretch(data, at, after, grammar)


def check_stretch(data: bytes | memoryview, at: int, after: int, grammar: Grammar) -> None:
    """Raise BadInstance if items between `at` and `after` are nested deeper than `Walk` reads.

    Looks for the tags of items alone, and at no more than 32,768 of them, so that a stranger cannot make it last. Where
    values imitate delimiters or the tags are more, the answer may be missed; then `Walk` still refuses to read it.
    """
    ends: list[tuple[int, bool]] = []  # of the items around: where each ends at most, and whether a delimiter ends it
    for number, mark in enumerate(_MARK[grammar.big_endian].finditer(data, at, after)):
        here, told = mark.start(), mark[1]
        while ends and ends[-1][0] <= here:
            ends.pop()
        if told is None:
            if ends and ends[-1][1]:
                ends.pop()
            continue
        length = int.from_bytes(told, "big" if grammar.big_endian else "little")
        limit = ends[-1][0] if ends else sys.maxsize  # the whole may be cut short
        end = limit if length == UNDEFINED else here + 8 + length
        if end <= limit:  # else it is no item, or one that `Walk` refuses
            ends.append((end, length == UNDEFINED))
        if len(ends) > MAX_DEPTH:
            raise BadInstance(f"sequences are nested deeper than {MAX_DEPTH}")
        if number >= _ENOUGH:
            return
