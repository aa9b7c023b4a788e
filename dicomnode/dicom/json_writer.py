"""Elements as members of a DICOM JSON object (PS3.18 F.2), and the memory of those made before."""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring

from dicomnode.dicom import values
from dicomnode.dicom.charset import Charset
from dicomnode.dicom.place import Place
from dicomnode.dicom.scan import PIXEL_DATA, CutShort, Element, Walk
from dicomnode.dicom.stretches import Stretches
from dicomnode.dicom.vr import BINARY, NAMES, SHORT, public
from dicomnode.errors import BadInstance

SHORT_NAMES = frozenset(NAMES[vr] for vr in SHORT)
_LUT_DESCRIPTORS = frozenset({0x00281101, 0x00281102, 0x00281103, 0x00283002})
_MEMO_VALUE_BYTES = 256
_MEMO_ENTRIES = 8192
_MEMO_CONTEXTS = 8


class Context:
    """What was made before under one byte order and character set: members by element, and by stretch of elements.

    Of a stretch: its first tag, its last one, and the members as text.
    """

    __slots__ = ("members", "stretches")

    def __init__(self) -> None:
        self.members: dict[bytes, str] = {}
        self.stretches: Stretches[tuple[int, int, str]] = Stretches()


class Memo:
    """Texts made before, from the bytes of explicit VR elements: within a series most repeat byte for byte.

    Bounded: it forgets everything once it is full.
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[bool, Charset], Context] = {}

    def of(self, big_endian: bool, charset: Charset) -> Context:
        """Return what was made before in this byte order and character set."""
        key = (big_endian, charset)
        found = self._contexts.get(key)
        if found is None:
            if len(self._contexts) >= _MEMO_CONTEXTS:
                self._contexts.clear()
            found = self._contexts[key] = Context()
        return found


class Writer:
    """Writes the elements of one buffer as DICOM JSON text."""

    def __init__(self, data: bytes, walk: Walk, *, big_endian: bool, memo: Memo) -> None:
        self._data = data
        self._walk = walk
        self._big = big_endian
        self._memo = memo
        self._bulk_uri: Callable[[str], str] | None = None
        self._bulk_over = 0

    def refer(self, bulk_uri: Callable[[str], str], threshold: int) -> None:
        """From now on let `bulk_uri(path)` stand for binary values whose Base64 is longer than `threshold` bytes."""
        self._bulk_uri = bulk_uri
        self._bulk_over = threshold // 4 * 3

    def data_set(self, elements: list[Element], *, implicit: bool, parent: Place | None = None, path: str = "") -> str:
        """Return `elements` as one JSON object, tags ascending; of several with one tag, the last."""
        place = Place(self._data, elements, implicit=implicit, big=self._big, parent=parent)
        place.path = path
        members = self._memo.of(self._big, place.charset).members
        texts = {element[0]: self.member(element, place, members) for element in elements}
        return "{" + ",".join([texts[tag] for tag in sorted(texts) if texts[tag]]) + "}"

    def member(self, element: Element, place: Place, members: dict[bytes, str]) -> str:
        """Return `"ggggeeee":{…}` for `element`; nothing for one that is not told."""
        tag, name, at, length, _, _ = element
        if name is None and not tag & 0x10000:
            # So short a length never looks like a VR: implicit headers may share the memo with explicit ones.
            name = public(tag)
        if name in SHORT_NAMES and length <= _MEMO_VALUE_BYTES and (tag >= 0x00030000 or place.depth):
            key = self._data[at - 8 : at + length]
            text = members.get(key)
            if text is None:
                if len(members) >= _MEMO_ENTRIES:
                    members.clear()
                text = members[key] = f'"{tag:08X}":{{{self.body(element, place)}}}'
            return text
        return f'"{tag:08X}":{{{self.body(element, place)}}}' if self._is_told(tag, place) else ""

    def body(self, element: Element, place: Place) -> str:
        """Return the inside of the JSON object of `element`, without its tag."""
        tag, _, at, length, _, undefined = element
        name = place.vr(element)
        if name == "SQ":
            return self._sequence(element, place)
        if name in BINARY:
            return self._binary(element, name, place)
        raw = self._data[at : at + length - 8 if undefined else at + length]
        if tag in _LUT_DESCRIPTORS and name == "SS":
            return _lut_descriptor(raw, self._big, place.charset)
        return values.encode(name, raw, self._big, place.charset)

    def _is_told(self, tag: int, place: Place) -> bool:
        if tag >> 16 == 0xFFFE or (tag >> 16 in (0, 2) and not place.depth):
            return False
        return tag not in PIXEL_DATA or self._bulk_uri is not None or place.depth > 0

    def _binary(self, element: Element, name: str, place: Place) -> str:
        tag, _, at, length, _, undefined = element
        if not length:
            return f'"vr":"{name}"'
        if self._bulk_uri is not None and (tag in PIXEL_DATA or length > self._bulk_over):
            return f'"vr":"{name}","BulkDataURI":{encode_basestring(self._bulk_uri(f"{place.path}{tag:08X}"))}'
        if undefined:
            length -= 8
        return f'"vr":"{name}"{values.binary(self._data[at : at + length])}'

    def _sequence(self, element: Element, place: Place) -> str:
        tag, name, at, length, items, _ = element
        if items is None:
            try:
                items = self._walk.items(at, at + length, place.implicit, place.depth)[0]
            except (BadInstance, CutShort):
                if name != "UN":
                    raise
                return self._binary(element, "UN", place)
        path = f"{place.path}{tag:08X}/"
        texts = [
            self.data_set(found, implicit=implicit, parent=place, path=f"{path}{number}/")
            for number, (implicit, found) in enumerate(items, 1)
        ]
        return f'"vr":"SQ","Value":[{",".join(texts)}]'


def _lut_descriptor(raw: bytes, big_endian: bool, charset: Charset) -> str:
    """Return a LUT descriptor as SS, whose first value, the number of entries, is unsigned all the same."""
    if len(raw) < 4 or len(raw) % 2:
        return values.encode("SS", raw, big_endian, charset)
    first = int.from_bytes(raw[:2], "big" if big_endian else "little")
    rest = values.encode("SS", raw[2:], big_endian, charset)
    return rest.replace("[", f"[{first},", 1)
