"""The quick way through the head of a data set: its indexed attributes, each as it stands, all else passed over."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from dicomnode.dicom import nesting
from dicomnode.dicom.scan import UNDEFINED, CutShort, Grammar, Walk, is_padding
from dicomnode.dicom.stretches import MAX_ELEMENT_BYTES, Stretches
from dicomnode.dicom.vr import SHORT
from dicomnode.model.attributes import INDEXED, Attribute, Level

MAX_INDEXED_BYTES: Final = 16 * 1024

_BY_LEVEL = sorted(INDEXED, key=lambda attribute: (attribute.level, attribute.tag))
ATTRIBUTES: Final = (Attribute("00080005", "SpecificCharacterSet", "CS", Level.PATIENT), *_BY_LEVEL)
"""What is picked: SpecificCharacterSet, then the indexed attributes by level and tag. A slot is a place herein."""
SLOTS: Final[dict[str, int]] = {attribute.keyword: slot for slot, attribute in enumerate(ATTRIBUTES)}
IDENTITY: Final = tuple(SLOTS[k] for k in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))

_LAST_GROUP = max(int(attribute.tag[:4], 16) for attribute in ATTRIBUTES)
_PIXEL_GROUP = 0x7FE0
_LONG_STRETCH_BYTES = 2048


class Picked:
    """What was found of the indexed attributes, by slot: the bytes of the whole element, header and value.

    `too_long` are the slots of those left out for their length; `at` is where the walk stopped; `ended` tells that it
    stopped only because the buffer did.
    """

    __slots__ = ("at", "ended", "found", "too_long")

    def __init__(self) -> None:
        self.found: list[bytes | None] = [None] * len(ATTRIBUTES)
        self.too_long: list[int] = []
        self.at = 0
        self.ended = False

    def take(self, slot: int, element: bytes) -> None:
        """Keep `element` in `slot`, in place of an earlier one, or note that it is too long."""
        if len(element) > MAX_INDEXED_BYTES:
            self.too_long.append(slot)
            self.found[slot] = None
        else:
            self.found[slot] = element

    def is_enough(self, tag: int) -> bool:
        """Tell whether the walk may stop at `tag`, which lies behind the last indexed group.

        Where elements are out of order, what identifies the object is sought up to the pixel data.
        """
        found = self.found
        return tag >> 16 >= _PIXEL_GROUP or all(found[slot] is not None for slot in IDENTITY)


class _Order(msgspec.Struct, frozen=True):
    """One byte order, with tags as the numbers that four bytes make in it: in little endian the element leads."""

    explicit: Callable[..., tuple[Any, ...]]
    implicit: Callable[..., tuple[Any, ...]]
    slots: dict[int, int]
    group_mask: int
    last_group: int
    big_endian: bool

    def tag(self, number: int) -> int:
        return number if self.big_endian else (number & 0xFFFF) << 16 | number >> 16


def _order(mark: str) -> _Order:
    big = mark == ">"
    slots = {int(attribute.tag, 16): slot for slot, attribute in enumerate(ATTRIBUTES)}
    return _Order(
        struct.Struct(mark + "L2sH").unpack_from,
        struct.Struct(mark + "LL").unpack_from,
        slots if big else {(tag & 0xFFFF) << 16 | tag >> 16: slot for tag, slot in slots.items()},
        0xFFFF0000 if big else 0xFFFF,
        _LAST_GROUP << 16 if big else _LAST_GROUP,
        big,
    )


_LITTLE, _BIG = _order("<"), _order(">")


Stretch = tuple[tuple[int, bytes], ...]
_stretches: dict[tuple[bool, bool], Stretches[Stretch]] = {
    (implicit, big_endian): Stretches() for implicit in (False, True) for big_endian in (False, True)
}


def pick(data: bytes, grammar: Grammar, *, implicit: bool) -> Picked:
    """Return the indexed attributes of the data set whose head is `data`.

    Raises:
        CutShort: the head ends inside an element that had to be read.
        BadInstance: it is no data set.
    """
    return _Pick(data, grammar, implicit).run()


class _Pick:
    """One way through a head: over stretches known from earlier objects, and element by element between them."""

    def __init__(self, data: bytes, grammar: Grammar, implicit: bool) -> None:
        self._data = data
        self._grammar = grammar
        self._implicit = implicit
        self._order = _BIG if grammar.big_endian else _LITTLE
        self._walk = Walk(data, grammar)
        self._stretches = _stretches[implicit, grammar.big_endian]
        self._picked = Picked()
        self._begun = 0
        self._taken: list[tuple[int, bytes]] = []
        self._count = 0

    def run(self) -> Picked:
        picked, data, found = self._picked, self._data, self._picked.found
        self._stretches.turn += 1
        size_of, meaning_of = self._stretches.sizes.get, self._stretches.known.get
        at = 0
        try:
            while at >= 0:
                picked.at = at
                size = size_of(data[at : at + 8])
                # Where the buffer ends early this may be a shorter stretch than the one looked for.
                stretch = data[at : at + size] if size else b""
                meaning = meaning_of(stretch)
                if meaning is None:
                    at = self._one(at)
                    continue
                if self._count:
                    self._close(at, at)
                for slot, element in meaning:
                    found[slot] = element
                at += len(stretch)
                self._begun = at
        except struct.error:
            # The walk stands where no header fits any more.
            if at != len(data) and not is_padding(data, at):
                raise CutShort from None
            picked.ended = True
        self._close(picked.at, 0)
        return picked

    def _one(self, at: int) -> int:
        """Take or pass over the element at `at`; return where it ends, or -1 where the walk is over."""
        order, data = self._order, self._data
        if self._implicit:
            tag, length = order.implicit(data, at)
            is_short = length != UNDEFINED
        else:
            tag, vr, length = order.explicit(data, at)
            is_short = vr in SHORT
        slot = order.slots.get(tag)
        if slot is None and tag & order.group_mask > order.last_group and self._picked.is_enough(order.tag(tag)):
            return -1
        after = at + 8 + length if is_short else self._walk.after(at, self._implicit)
        if after > len(data):
            raise CutShort(order.tag(tag))
        if after - at >= nesting.LEAST_BYTES:
            nesting.check_element(data, at, after, self._grammar)
        if slot is not None or after - at <= MAX_ELEMENT_BYTES:
            self._learn(slot, data[at:after], at, after)
        else:
            self._close(at, after)
        return after

    def _learn(self, slot: int | None, element: bytes, at: int, after: int) -> None:
        """Take `element` if it has a slot; if it is an old one it lengthens the stretch that is being learnt."""
        if slot is not None:
            self._picked.take(slot, element)
        if not self._stretches.is_old(element):
            self._close(at, after)
            return
        self._count += 1
        if slot is not None:
            self._taken.append((slot, element))
        if after - self._begun > _LONG_STRETCH_BYTES:
            self._close(after, after)

    def _close(self, at: int, begin: int) -> None:
        """End the stretch that is being learnt at `at`; another may begin at `begin`."""
        if self._count > 1:
            self._stretches.learn(self._data[self._begun : at], tuple(self._taken))
        self._begun, self._taken, self._count = begin, [], 0
