"""A data set's elements written in another encoding: explicit or implicit VR, little or big endian (PS3.5 7, A.1-A.3).

Values stay byte for byte as they are, but for the order of bytes; nothing is decoded, so nothing is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from dicomnode.dicom import vr as vrs
from dicomnode.dicom.scan import BIG, ITEM, LITTLE, CutShort, Element, Item, Walk
from dicomnode.dicom.transfer_syntax import TransferSyntax
from dicomnode.errors import BadInstance

Replaced: TypeAlias = "tuple[str, bytes] | None"
"""VR and value that an element is to have instead, None to leave it out."""

PIXEL_REPRESENTATION: Final = 0x00280103
BITS_ALLOCATED: Final = 0x00280100
_LUT_DATA: Final = 0x00283006
_PIXEL_DATA: Final = 0x7FE00010

_WIDTH: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_ZERO_PADDED: Final = frozenset({"UI", "OB", "UN"})
_LONG: Final = frozenset(vr.decode() for vr in vrs.LONG)
_MOST_SHORT: Final = 0xFFFF


def swapped(value: bytes | memoryview, vr: str, width: int = 0) -> bytes:
    """Return `value` with the bytes of each number in the other order; `width` bytes each, 0 for what the VR says."""
    width = width or _WIDTH.get(vr, 1)
    whole = len(value) - len(value) % width
    if width == 1 or not whole:
        return bytes(value)
    out = bytearray(value)
    for i in range(width):
        out[i:whole:width] = value[width - 1 - i : whole : width]
    return bytes(out)


class Recoder:
    """Writes elements that a walk over `data` found in the encoding of `target`."""

    def __init__(self, data: bytes | memoryview, source: TransferSyntax, target: TransferSyntax) -> None:
        self._data = data
        self._target = target
        self._same = (source.implicit, source.big_endian) == (target.implicit, target.big_endian)
        self._swaps = source.big_endian != target.big_endian
        self._big_endian = source.big_endian
        self._walk = Walk(data, BIG if source.big_endian else LITTLE)
        order = ">" if target.big_endian else "<"
        self._tag_length = struct.Struct(order + "HHL").pack
        self._short = struct.Struct(order + "HH2sH").pack
        self._long = struct.Struct(order + "HH2s2xL").pack

    def top(self, at: int, elements: Sequence[Element], replaced: Mapping[int, Replaced], *, implicit: bool) -> bytes:
        """Return the elements of the top level, the first of which begins at `at`; `replaced` may add some.

        Group lengths, retired and mostly wrong, are left out. Raises: BadInstance.
        """
        if self._same and implicit == self._target.implicit:
            parts = self._verbatim(at, elements, replaced)
        else:
            parts = self._anew(elements, replaced, implicit=implicit)
        return b"".join(value for _, value in sorted(parts, key=lambda part: part[0]))

    def header(self, tag: int, vr: str, length: int) -> bytes:
        """Return the header of an element whose value has `length` bytes."""
        group, number = tag >> 16, tag & 0xFFFF
        if self._target.implicit:
            return self._tag_length(group, number, length)
        if vr in _LONG:
            return self._long(group, number, vr.encode(), length)
        if length > _MOST_SHORT:
            return self._long(group, number, b"UN", length)  # PS3.5 6.2.2 note
        return self._short(group, number, vr.encode(), length)

    # Its own.

    def _verbatim(
        self, at: int, elements: Sequence[Element], replaced: Mapping[int, Replaced]
    ) -> list[tuple[int, bytes]]:
        parts = self._added(replaced)
        for tag, _, value_at, length, _, _ in elements:
            if tag & 0xFFFF and tag not in replaced:
                parts.append((tag, bytes(self._data[at : value_at + length])))
            at = value_at + length
        return parts

    def _anew(
        self, elements: Sequence[Element], replaced: Mapping[int, Replaced], *, implicit: bool
    ) -> list[tuple[int, bytes]]:
        parts = self._added(replaced)
        around = _Around(self._data, elements, implicit=implicit, big_endian=self._big_endian, outer=None)
        parts += (
            (element[0], self._element(element, around, 0))
            for element in elements
            if element[0] & 0xFFFF and element[0] not in replaced
        )
        return parts

    def _added(self, replaced: Mapping[int, Replaced]) -> list[tuple[int, bytes]]:
        return [(tag, self._whole(tag, *new)) for tag, new in replaced.items() if new is not None]

    def _whole(self, tag: int, vr: str, value: bytes) -> bytes:
        """Return an element of a value that is in the right order of bytes."""
        if len(value) & 1:
            value += b"\0" if vr in _ZERO_PADDED else b" "
        return self.header(tag, vr, len(value)) + value

    def _element(self, element: Element, around: _Around, depth: int) -> bytes:
        tag, vr, value_at, length, items, undefined = element
        if vr is None or around.implicit or (vr == "UN" and not tag & 0x10000):
            # A public attribute as UN was once implicit, and may be what it is again (PS3.5 6.2.2).
            vr = around.vr(tag, length, has_items=items is not None)
        if vr == "SQ" and items is None:
            items = self._items(value_at, length, depth, implicit=around.implicit)
            vr = "SQ" if items is not None else "UN"
        if items is not None:
            value = b"".join(self._item(item, around, depth + 1) for item in items)
            return self.header(tag, "SQ", len(value)) + value
        if undefined:
            raise BadInstance("an encapsulated value outside the pixel data cannot be given another encoding")
        value = bytes(self._data[value_at : value_at + length])
        return self._whole(tag, vr, swapped(value, vr) if self._swaps else value)

    def _items(self, at: int, length: int, depth: int, *, implicit: bool) -> list[Item] | None:
        """Return the items of a sequence of defined length; None where it is none, whatever its VR says."""
        try:
            return self._walk.items(at, at + length, implicit, depth)[0]
        except CutShort:
            return None

    def _item(self, item: Item, outer: _Around, depth: int) -> bytes:
        implicit, elements = item
        around = _Around(self._data, elements, implicit=implicit, big_endian=self._big_endian, outer=outer)
        value = b"".join(self._element(element, around, depth) for element in elements if element[0] & 0xFFFF)
        return self._tag_length(ITEM >> 16, ITEM & 0xFFFF, len(value)) + value


class _Around:
    """The data set that an element stands in: what tells the VR of an element that does not say it (PS3.5 6.2, A.1)."""

    def __init__(
        self,
        data: bytes | memoryview,
        elements: Sequence[Element],
        *,
        implicit: bool,
        big_endian: bool,
        outer: _Around | None,
    ) -> None:
        self.implicit = implicit
        self._data = data
        self._order: Literal["big", "little"] = "big" if big_endian else "little"
        self._creators: dict[int, str] = {}
        self.signed: bool = outer.signed if outer else False
        self.bits_allocated: int = outer.bits_allocated if outer else 16
        for tag, _, value_at, length, _, _ in elements:
            if tag == PIXEL_REPRESENTATION:
                self.signed = bool(self._number(value_at, length))
            elif tag == BITS_ALLOCATED:
                self.bits_allocated = self._number(value_at, length)
            elif tag & 0x10000 and 0x10 <= tag & 0xFFFF < 0x100:
                text = bytes(data[value_at : value_at + min(length, 64)])
                self._creators[tag] = text.decode("latin-1").strip(" \0")

    def vr(self, tag: int, length: int, *, has_items: bool) -> str:
        """Return the VR of an element that does not say it."""
        if has_items:
            return "SQ"
        if tag & 0x10000:
            return self._private(tag)
        told = vrs.public(tag) or "UN"
        if " or " not in told:
            return told if len(told) == 2 else "UN"
        if tag == _LUT_DATA:
            return "US" if length <= 2 else "OW"
        if told == "US or SS":
            return "SS" if self.signed else "US"
        return "OB" if tag == _PIXEL_DATA and self.bits_allocated <= 8 else "OW"

    def _private(self, tag: int) -> str:
        creator = self._creators.get(tag & 0xFFFF0000 | (tag >> 8 & 0xFF), "")
        told = vrs.private(tag, creator)
        # What is inside a private sequence stays as it is: UN holds implicit VR (PS3.5 6.2.2).
        return told if len(told) == 2 and told != "SQ" else "UN"

    def _number(self, at: int, length: int) -> int:
        return int.from_bytes(bytes(self._data[at : at + min(length, 2)]), self._order)
