"""The byte grammar of data sets (PS3.5 7): from bytes to elements, no values decoded, nothing trusted.

An element is the tuple (tag, VR or None, offset of the value, its length, items or None, whether its length was
undefined). A length that was undefined is the span to the end of the delimiter. Items are given where they had to be
walked to find that end; `Walk.items` walks those of any other sequence. An item is (implicit VR, its elements).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from dicomnode.dicom.vr import LONG, NAMES, SHORT, public
from dicomnode.errors import BadInstance

Element: TypeAlias = tuple[int, str | None, int, int, "list[Item] | None", bool]
Item: TypeAlias = tuple[bool, list[Element]]

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 4_000_000
UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
PIXEL_DATA: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


class CutShort(Exception):
    """The buffer ends inside an element: `tag`, or None where not even that could be read."""

    def __init__(self, tag: int | None = None) -> None:
        super().__init__(tag)
        self.tag = tag

    def __str__(self) -> str:
        return "cut short" if self.tag is None else f"cut short in {name(self.tag)}"


class Grammar(msgspec.Struct, frozen=True):
    """How headers are unpacked in one byte order, from a buffer at an offset."""

    big_endian: bool
    explicit: Callable[..., tuple[Any, ...]]
    implicit: Callable[..., tuple[Any, ...]]
    length: Callable[..., tuple[Any, ...]]
    sequence_end: bytes


def _grammar(order: str) -> Grammar:
    return Grammar(
        order == ">",
        struct.Struct(order + "HH2sH").unpack_from,
        struct.Struct(order + "HHL").unpack_from,
        struct.Struct(order + "L").unpack_from,
        struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0),
    )


LITTLE: Final = _grammar("<")
BIG: Final = _grammar(">")


def name(tag: int) -> str:
    """Return `tag` as (gggg,eeee)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def is_padding(data: bytes | memoryview, at: int) -> bool:
    """Tell whether nothing but zeros, too few for another element, stand behind `at`."""
    return at <= len(data) < at + 8 and not any(data[at:])


def looks_implicit(data: bytes | memoryview, at: int, end: int, assumed: bool) -> bool:
    """Tell whether the elements at `at` are in implicit VR, judged by the first one's VR; `assumed` if there is none.

    Some writers put implicit VR into explicit data sets, and PS3.5 6.2.2 wants it inside UN.
    """
    if at + 6 > end:
        return assumed
    return not (0x40 < data[at + 4] < 0x5B and 0x40 < data[at + 5] < 0x5B)


class Walk:
    """One walk over the elements of `data`, which may be nested 64 deep and number 4,000,000 in all.

    With `to_pixels`, the walk ends at the header of the pixel data, whose value may be absent. Every method raises
    BadInstance where the bytes contradict themselves, and CutShort where they end too early.
    """

    def __init__(self, data: bytes | memoryview, grammar: Grammar, *, to_pixels: bool = False) -> None:
        self._data = data
        self._grammar = grammar
        self._left = MAX_ELEMENTS
        self._to_pixels = to_pixels

    def data_set(self, at: int, end: int, implicit: bool, depth: int) -> tuple[list[Element], int]:
        """Return the elements from `at` to `end`, or to an item delimiter, and where what follows begins.

        Without a delimiter, what follows begins at -1.
        """
        data, names, longs, found = self._data, NAMES, LONG, list[Element]()
        explicit_header, implicit_header = self._grammar.explicit, self._grammar.implicit
        vr: str | None = None
        while at + 8 <= end:
            value_at = at + 8
            if implicit:
                group, number, length = implicit_header(data, at)
            else:
                group, number, code, length = explicit_header(data, at)
                vr = names.get(code)
                if vr is None or code in longs:
                    vr, value_at, length = self._unusual(at, end, code, length)
            if length == UNDEFINED or group >= 0x7FE0:
                element, at = self._special((group << 16 | number, vr, value_at, length), end, implicit, depth)
                if element is None:
                    self._count(found)
                    return found, at
                found.append(element)
                continue
            at = value_at + length
            if at > end:
                raise self._overrun(end, group << 16 | number)
            found.append((group << 16 | number, vr, value_at, length, None, False))
        if any(data[at:end]):
            raise self._overrun(end, None)
        self._count(found)
        return found, -1

    def header(self, at: int, implicit: bool) -> tuple[int, str | None, int, int]:
        """Return tag, VR, offset of the value and length as the element at `at` has them."""
        end = len(self._data)
        if at + 8 > end:
            raise CutShort
        group, number, code, length = self._grammar.explicit(self._data, at)
        tag = group << 16 | number
        if implicit:
            return tag, None, at + 8, self._grammar.implicit(self._data, at)[2]
        if code in SHORT:
            return tag, NAMES[code], at + 8, length
        return (tag, *self._unusual(at, end, code, length))

    def element(self, at: int, implicit: bool) -> tuple[Element | None, int]:
        """Return the element at `at` of the top level and where it ends; None where that ends the data set."""
        return self._special(self.header(at, implicit), len(self._data), implicit, 0)

    def after(self, at: int, implicit: bool) -> int:
        """Return where the element at `at` of the top level ends, whatever it is; -1 where it ends the data set."""
        element, after = self.element(at, implicit)
        return -1 if element is None else after

    def items(self, at: int, end: int, implicit: bool, depth: int, delimited: bool = False) -> tuple[list[Item], int]:
        """Return the items from `at` to `end`, or to the sequence delimiter, and where what follows begins."""
        if depth >= MAX_DEPTH:
            raise BadInstance(f"sequences are nested deeper than {MAX_DEPTH}")
        data, header, found = self._data, self._grammar.implicit, list[Item]()
        while at + 8 <= end:
            group, number, length = header(data, at)
            at += 8
            tag = group << 16 | number
            if tag == ITEM:
                item, at = self._item(at, end, length, implicit, depth)
                found.append(item)
            elif tag == SEQUENCE_END:
                return found, at
            elif tag != ITEM_END:
                raise BadInstance(f"{name(tag)} stands where an item should")
        if delimited or at < end:
            raise self._overrun(end, None)
        self._left -= len(found)
        return found, at

    def _item(self, at: int, end: int, length: int, implicit: bool, depth: int) -> tuple[Item, int]:
        item_end = end if length == UNDEFINED else at + length
        if item_end > end:
            raise self._overrun(end, ITEM)
        implicit = implicit or looks_implicit(self._data, at, item_end, assumed=False)
        found, after = self.data_set(at, item_end, implicit, depth + 1)
        if length != UNDEFINED:
            return (implicit, found), item_end
        if after < 0:
            raise self._overrun(end, ITEM)
        return (implicit, found), after

    def _unusual(self, at: int, end: int, code: bytes, length: int) -> tuple[str | None, int, int]:
        """Return VR, offset of the value and length where the explicit header is not one of 8 bytes."""
        if code in LONG:
            if at + 12 > end:
                raise self._overrun(end, None)
            return NAMES[code], at + 12, self._grammar.length(self._data, at + 8)[0]
        if b"AA" <= code <= b"ZZ":
            # As pydicom: a VR that nobody knows has a short length.
            return "UN", at + 8, length
        return None, at + 8, self._grammar.implicit(self._data, at)[2]

    def _special(
        self, header: tuple[int, str | None, int, int], end: int, implicit: bool, depth: int
    ) -> tuple[Element | None, int]:
        """Return the element that begins with `header` and where the next begins; no element at the data set's end."""
        tag, vr, value_at, length = header
        if tag == ITEM_END:
            return None, value_at
        if tag == SEQUENCE_END and depth:
            # A last item whose own delimiter was forgotten.
            return None, value_at - 8
        if tag in PIXEL_DATA and self._to_pixels and not depth:
            return (tag, vr, value_at, length, None, length == UNDEFINED), end
        if length != UNDEFINED:
            if value_at + length > end:
                raise self._overrun(end, tag)
            return (tag, vr, value_at, length, None, False), value_at + length
        if self._is_sequence(tag, vr, value_at, end):
            found, after = self.items(value_at, end, implicit, depth, delimited=True)
            return (tag, "SQ", value_at, after - value_at, found, True), after
        after = self._after_fragments(tag, value_at, end)
        return (tag, vr, value_at, after - value_at, None, True), after

    def _is_sequence(self, tag: int, vr: str | None, at: int, end: int) -> bool:
        """Tell whether an element of undefined length is a sequence (PS3.5 6.2.2 note 2 for UN)."""
        if vr is not None:
            return vr in ("SQ", "UN")
        known = public(tag)
        if known is not None:
            return known == "SQ"
        if at + 8 > end:
            raise self._overrun(end, tag)
        group, number, _ = self._grammar.implicit(self._data, at)
        return bool(group == 0xFFFE and number == 0xE000)

    def _after_fragments(self, tag: int, at: int, end: int) -> int:
        """Return where the encapsulated value at `at` ends, behind its sequence delimiter (PS3.5 A.4)."""
        data, header = self._data, self._grammar.implicit
        while at + 8 <= end:
            group, number, length = header(data, at)
            if group == 0xFFFE and number == 0xE000:
                at += 8 + length
                continue
            # No item: the delimiter, or a wrong length, behind which the delimiter must still come.
            skipped = bytes(data[at:end]).find(self._grammar.sequence_end[:4])
            if skipped < 0 or at + skipped + 8 > end:
                break
            return at + skipped + 8
        raise self._overrun(end, tag)

    def _count(self, found: list[Element]) -> None:
        self._left -= len(found)
        if self._left < 0:
            raise BadInstance(f"more than {MAX_ELEMENTS} elements")

    def _overrun(self, end: int, tag: int | None) -> Exception:
        """Return what to raise for `tag`, which goes on behind `end`."""
        if end == len(self._data):
            return CutShort(tag)
        return BadInstance(f"{name(tag)} runs over the end of its item" if tag else "an item ends inside an element")
