"""The quick way over the top level of a data set to its DICOM JSON: what was seen before is not made again."""

from __future__ import annotations

from dicomnode.dicom.json_writer import SHORT_NAMES, Memo, Writer
from dicomnode.dicom.place import CREATOR, CREATOR_MASK, Place
from dicomnode.dicom.scan import PIXEL_DATA, CutShort, Element, Walk
from dicomnode.dicom.stretches import MAX_ELEMENT_BYTES

_SPECIFIC_CHARACTER_SET = 0x00080005
# How others are to be read may hang on these, so they must be walked each time: BitsAllocated, PixelRepresentation,
# LUTDescriptor, WaveformBitsAllocated.
_TELLING = frozenset({0x00280100, 0x00280103, 0x00283002, 0x54001004})
_MAX_LEAD = 16
_LONG_STRETCH_BYTES = 2048


class Skim:
    """One way over the top level in explicit VR: stretches known from earlier objects whole, the rest one by one."""

    def __init__(self, data: bytes, walk: Walk, writer: Writer, memo: Memo, *, big_endian: bool) -> None:
        self._data = data
        self._walk = walk
        self._writer = writer
        self._place = Place(data, self._lead(), implicit=False, big=big_endian)
        self._place.elements = []
        context = memo.of(big_endian, self._place.charset)
        self._members = context.members
        self._stretches = context.stretches
        self._begun = 0
        self._learnt: list[tuple[int, str]] = []

    def text(self, *, to_pixels: bool) -> str | None:
        """Return the JSON object; None where the elements are out of order and must be put in order first.

        Raises:
            CutShort: the buffer ends too early; with `to_pixels`, before the header of the pixel data.
        """
        data, end, stretches = self._data, len(self._data), self._stretches
        size_of, meaning_of = stretches.sizes.get, stretches.known.get
        texts: list[str] = []
        at, last = 0, -1
        while at + 8 <= end:
            size = size_of(data[at : at + 8])
            # Where the buffer ends early this may be a shorter stretch than the one looked for.
            stretch = data[at : at + size] if size else b""
            meaning = meaning_of(stretch)
            if meaning is not None:
                first, final, text = meaning
                after = at + len(stretch)
                self._close(at, after)
            else:
                element, after = self._walk.element(at, implicit=False)
                if element is None:
                    break
                first = final = element[0]
                text = self._one(element, at, after) if first > last else ""
            if first <= last:
                return None
            texts.append(text)
            at, last = after, final
        self._close(at, at)
        self._check_end(at, to_pixels)
        return "{" + ",".join([text for text in texts if text]) + "}"

    def _lead(self) -> list[Element]:
        """Return SpecificCharacterSet, under which all else is read, if it stands where it should."""
        at = 0
        for _ in range(_MAX_LEAD):
            if at + 8 > len(self._data):
                break
            element, at = self._walk.element(at, implicit=False)
            if element is None or element[0] > _SPECIFIC_CHARACTER_SET:
                break
            if element[0] == _SPECIFIC_CHARACTER_SET:
                return [element]
        return []

    def _check_end(self, at: int, to_pixels: bool) -> None:
        elements = self._place.elements
        if to_pixels and not (elements and elements[-1][0] in PIXEL_DATA):
            raise CutShort
        if at + 8 > len(self._data) and any(self._data[at:]):
            raise CutShort

    def _one(self, element: Element, at: int, after: int) -> str:
        """Return the member made of `element`, which lengthens the stretch that is being learnt if it is an old one."""
        self._place.add(element)
        text = self._writer.member(element, self._place, self._members)
        if after - at <= MAX_ELEMENT_BYTES and _is_plain(element) and self._stretches.is_old(self._data[at:after]):
            self._learnt.append((element[0], text))
            if after - self._begun > _LONG_STRETCH_BYTES:
                self._close(after, after)
        else:
            self._close(at, after)
        return text

    def _close(self, at: int, begin: int) -> None:
        """End the stretch that is being learnt at `at`; another may begin at `begin`."""
        learnt = self._learnt
        if len(learnt) > 1:
            meaning = (learnt[0][0], learnt[-1][0], ",".join([text for _, text in learnt]))
            self._stretches.learn(self._data[self._begun : at], meaning)
        if learnt:
            self._learnt = []
        self._begun = begin


def _is_plain(element: Element) -> bool:
    """Tell whether what `element` becomes hangs on nothing else, and nothing else hangs on it."""
    tag = element[0]
    return element[1] in SHORT_NAMES and tag >= 0x00030000 and tag & CREATOR_MASK != CREATOR and tag not in _TELLING
