"""Where an element stands: what its data set and those around it say of how it is to be read."""

from __future__ import annotations

from dicomnode.dicom import charset as charsets
from dicomnode.dicom import vr
from dicomnode.dicom.charset import Charset
from dicomnode.dicom.scan import PIXEL_DATA, Element

# An odd group, and an element below 0100.
CREATOR_MASK, CREATOR = 0x1FF00, 0x10000
_PADDING = "\0 "
_SPECIFIC_CHARACTER_SET = 0x00080005
_LUT_DESCRIPTOR = 0x00283002
_LUT_DATA = 0x00283006
_PIXEL_REPRESENTATION = 0x00280103
_WAVEFORM_BITS_ALLOCATED = 0x54001004
_BITS_ALLOCATED = 0x00280100
# A UN value this long may be one because no short VR could hold it (PS3.5 6.2.2).
_UN_BY_LENGTH = 0xFFFF


class Place:
    """One data set, the root or an item: its elements, encoding, character set, and the data set around it."""

    __slots__ = ("_creators", "big", "charset", "data", "depth", "elements", "implicit", "parent", "path")

    def __init__(
        self, data: bytes, elements: list[Element], *, implicit: bool, big: bool, parent: Place | None = None
    ) -> None:
        self.data = data
        self.elements = elements
        self.implicit = implicit
        self.big = big
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.path = ""
        self.charset = self._charset()
        self._creators: dict[int, str] | None = None

    def add(self, element: Element) -> None:
        """Add an element that was walked after this place was made."""
        self.elements.append(element)
        if element[0] & CREATOR_MASK == CREATOR:
            self._creators = None

    def vr(self, element: Element) -> str:
        """Return the VR of `element`, also where the stream does not name one, or names UN for what is known."""
        tag, name, _, length, _, undefined = element
        if name is not None and (name != "UN" or (length >= _UN_BY_LENGTH and not tag & 0x10000)):
            return name
        if tag & 0x10000:
            return self._settled(element, vr.private(tag, self._creator(tag)))
        found = vr.public(tag)
        return "UN" if found is None else self._settled(element, found, undefined=undefined)

    def _charset(self) -> Charset:
        for element in self.elements:
            if element[0] >= _SPECIFIC_CHARACTER_SET:
                if element[0] == _SPECIFIC_CHARACTER_SET:
                    return charsets.of(self.data[element[2] : element[2] + min(element[3], 1024)])
                break
        return self.parent.charset if self.parent else charsets.DEFAULT

    def _creator(self, tag: int) -> str:
        if self._creators is None:
            self._creators = {
                found[0]: self.charset.decode(self.data[found[2] : found[2] + min(found[3], 64)]).rstrip(_PADDING)
                for found in self.elements
                if found[0] & CREATOR_MASK == CREATOR
            }
        return self._creators.get(tag & 0xFFFF0000 | (tag & 0xFF00) >> 8, "")

    def _settled(self, element: Element, name: str, *, undefined: bool = False) -> str:
        """Return the one VR of `element` where the dictionary leaves a choice: "US or SS", "OB or OW", "US or OW"."""
        if " " not in name:
            return name
        tag = element[0]
        if name == "US or SS":
            return "SS" if self._is_signed() else "US"
        if tag == _LUT_DATA:
            return "US" if self.number(_LUT_DESCRIPTOR) == 1 else "OW"
        if tag in PIXEL_DATA and undefined:
            return "OB"
        if self.implicit or name != "OB or OW":
            return "OW"
        bits = self.number(_BITS_ALLOCATED if tag in PIXEL_DATA else _WAVEFORM_BITS_ALLOCATED)
        return "OB" if bits is not None and bits <= 8 else "OW"

    def _is_signed(self) -> bool:
        place: Place | None = self
        while place is not None:
            found = place.number(_PIXEL_REPRESENTATION)
            if found is not None:
                return found != 0
            place = place.parent
        return False

    def number(self, tag: int) -> int | None:
        """Return the first value of an attribute that is a US."""
        for found in self.elements:
            if found[0] == tag and found[3] >= 2:
                return int.from_bytes(self.data[found[2] : found[2] + 2], "big" if self.big else "little")
        return None
