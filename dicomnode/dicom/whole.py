"""Tell whether a stored data set ends where it should, reading only headers. Sans I/O: the caller fetches bytes."""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Final

from dicomnode.dicom.scan import ITEM, ITEM_END, MAX_DEPTH, SEQUENCE_END, UNDEFINED
from dicomnode.dicom.transfer_syntax import TransferSyntax
from dicomnode.dicom.vr import LONG

HEADER: Final = 12

Wanted = Generator[int, bytes, bool]


def ends_whole(syntax: TransferSyntax, start: int, size: int) -> Wanted:
    """Follow the element headers from `start` to `size`; return whether the last element ends exactly there.

    Yields the offset at which it wants to see bytes, and is sent at least `HEADER` of them (fewer at the end). Not for
    deflated data sets. A cut that falls exactly between two elements of the top level cannot be seen.
    """
    order = ">" if syntax.big_endian else "<"
    walk = _Walk(order)
    implicit = [syntax.implicit]
    at = start
    while at < size:
        seen = yield at
        step = walk.step(seen, implicit)
        if step is None:
            return False
        at += step
    return at == size and len(implicit) == 1


class _Walk:
    def __init__(self, order: str) -> None:
        self._tag = struct.Struct(order + "HH").unpack_from
        self._short = struct.Struct(order + "H").unpack_from
        self._long = struct.Struct(order + "L").unpack_from

    def step(self, seen: bytes, implicit: list[bool]) -> int | None:
        """Return how far the next header is; None where this one makes no sense. `implicit` holds the open levels."""
        if len(seen) < 8:
            return None
        group, element = self._tag(seen)
        tag = group << 16 | element
        if tag in (ITEM_END, SEQUENCE_END):
            implicit.pop()
            return 8 if implicit else None
        vr, header, length = self._sized(seen, tag, implicit[-1])
        if length != UNDEFINED:
            return header + length
        if len(implicit) > 2 * MAX_DEPTH:
            return None
        implicit.append(implicit[-1] or vr == b"UN")
        return header

    def _sized(self, seen: bytes, tag: int, implicit: bool) -> tuple[bytes, int, int]:
        """Return VR, length of the header and of the value, in bytes."""
        vr = bytes(seen[4:6])
        if implicit or tag == ITEM:
            return b"", 8, self._long(seen, 4)[0]
        if vr not in LONG:
            return vr, 8, self._short(seen, 6)[0]
        return vr, 12, self._long(seen, 8)[0] if len(seen) >= 12 else UNDEFINED - 1
