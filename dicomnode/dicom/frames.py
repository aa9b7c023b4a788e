"""Where the frames of an object lie, found from its head and a few ranged reads; nothing an object says is trusted.

Sans-I/O: `index_frames` yields ranges (offset, length) of the data set that it wants to see, and is sent their bytes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Generator
from typing import Final, TypeAlias

import msgspec

from dicomnode.dicom.scan import BIG, LITTLE, PIXEL_DATA, CutShort, Element, Walk, looks_implicit
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, GE_PRIVATE_IMPLICIT_VR, TransferSyntax
from dicomnode.errors import BadInstance, NotFound

MAX_FRAMES: Final = 4_000_000
_MAX_FRAME_BYTES: Final = 4 * 1024 * 1024 * 1024
_WINDOW: Final = 64 * 1024
_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"
_LENGTH = struct.Struct("<L").unpack_from

Ranges = Generator[tuple[int, int], bytes, "FrameIndex"]


class PixelHead(msgspec.Struct, frozen=True):
    """What stands before the pixel data: how large a frame is, and where the value begins. Offsets within the data set.

    `length` is None where the value is encapsulated. `offsets` and `lengths` are the extended offset table (64 bit
    little endian), empty where there is none. `word` is how many bytes are to be reversed to make words little endian.
    """

    offset: int
    length: int | None
    frames: int
    frame_bits: int
    syntax: TransferSyntax
    word: int = 1
    offsets: bytes = b""
    lengths: bytes = b""


class FrameIndex(msgspec.Struct, frozen=True):
    """Where each of `count` frames lies within the data set.

    Native frames follow one another, `frame_bits` each, from `start`. Encapsulated ones lie from `starts[n]` to
    `ends[n]` with the headers of their items. `transfer_syntax_uid` and `media_type` say what the bytes of `frame` are.
    """

    count: int
    transfer_syntax_uid: str
    media_type: str
    start: int = 0
    frame_bits: int = 0
    word: int = 1
    starts: array[int] = msgspec.field(default_factory=lambda: array("Q"))
    ends: array[int] = msgspec.field(default_factory=lambda: array("Q"))

    def range_of(self, number: int) -> tuple[int, int]:
        """Return offset and length in bytes of what must be read for frame `number` (from 1). Raises: NotFound."""
        if not 1 <= number <= self.count:
            raise NotFound(f"there is no frame {number}; the instance has {self.count}")
        if self.starts:
            return self.starts[number - 1], self.ends[number - 1] - self.starts[number - 1]
        bit = (number - 1) * self.frame_bits
        first = bit // 8 // self.word * self.word
        last = -(-(bit + self.frame_bits) // 8)
        return self.start + first, -(-last // self.word) * self.word - first

    def frame(self, number: int, read: bytes) -> bytes | memoryview:
        """Return frame `number` from the bytes of its range, words little endian. Raises: BadInstance."""
        if self.starts:
            return _payload(read)
        bit = (number - 1) * self.frame_bits
        first = bit // 8 // self.word * self.word
        size = -(-self.frame_bits // 8)
        if self.word > 1:
            read = swap(read, self.word)
        if bit % 8 or self.frame_bits % 8:
            return _shifted(read, bit - first * 8, self.frame_bits)
        skip = bit // 8 - first
        if len(read) < skip + size:
            raise BadInstance("the pixel data are cut short")
        return read if not skip and len(read) == size else memoryview(read)[skip : skip + size]


def swap(data: bytes, word: int) -> bytes:
    """Return `data` with the bytes of each `word` (2, 4 or 8 bytes) reversed; a piece left over stays as it is."""
    whole = len(data) // word * word
    words = array({2: "H", 4: "I", 8: "Q"}[word], data[:whole])
    words.byteswap()
    return words.tobytes() + data[whole:]


def _shifted(read: bytes, skip: int, bits: int) -> bytes:
    """Return `bits` bits from bit `skip`, the lowest bit of each byte first (PS3.5 8.1.1, D)."""
    if len(read) * 8 < skip + bits:
        raise BadInstance("the pixel data are cut short")
    return (int.from_bytes(read, "little") >> skip & ((1 << bits) - 1)).to_bytes(-(-bits // 8), "little")


def _payload(read: bytes) -> bytes | memoryview:
    """Return the values of the items in `read`, joined, without their headers."""
    parts: list[memoryview] = []
    at, view = 0, memoryview(read)
    while at + 8 <= len(read) and read[at : at + 4] != _END:
        length: int = _LENGTH(read, at + 4)[0]
        if read[at : at + 4] != _ITEM or at + 8 + length > len(read):
            raise BadInstance("the items of the pixel data do not lie where its offsets say")
        parts.append(view[at + 8 : at + 8 + length])
        at += 8 + length
    if not parts:
        raise BadInstance("the items of the pixel data do not lie where its offsets say")
    return parts[0] if len(parts) == 1 else b"".join(parts)


_KEPT: Final = {0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x7FE00001, 0x7FE00002}


def read_pixel_head(head: bytes, syntax: TransferSyntax, complete: bool) -> PixelHead | None:
    """Return what the start of a data set says of its pixel data; None when that needs more bytes.

    Raises: NotFound, there are no pixel data; BadInstance, what it says cannot be.
    """
    try:
        walk = Walk(head, BIG if syntax.big_endian else LITTLE, to_pixels=True)
        implicit = looks_implicit(head, 0, len(head), syntax.implicit)
        elements, _ = walk.data_set(0, len(head), implicit, 0)
    except CutShort as error:
        if complete:
            raise BadInstance(str(error)) from None
        return None
    if not elements or elements[-1][0] not in PIXEL_DATA:
        if not complete:
            return None
        raise NotFound("the instance has no pixel data")
    return _pixel_head(head, elements, syntax)


def _pixel_head(head: bytes, elements: list[Element], syntax: TransferSyntax) -> PixelHead:
    _, vr, offset, length, _, undefined = elements[-1]
    raw = {e[0]: head[e[2] : e[2] + e[3]] for e in elements if e[0] in _KEPT}
    bits = _number(raw, 0x00280100, syntax)
    samples = _number(raw, 0x00280002, syntax) or 1
    # Two of three samples are stored where chrominance is shared by pixels in pairs (PS3.3 C.7.6.3.1.2).
    shared = samples == 3 and raw.get(0x00280004, b"").strip(b" \0") == b"YBR_FULL_422"
    frame_bits = _number(raw, 0x00280010, syntax) * _number(raw, 0x00280011, syntax) * (2 if shared else samples) * bits
    frames = _frames(raw.get(0x00280008, b""))
    swapped = syntax.big_endian or syntax.uid == GE_PRIVATE_IMPLICIT_VR
    word = max(bits // 8, 2 if vr != "OB" else 1) if swapped and not undefined else 1
    return PixelHead(
        offset,
        None if undefined else length,
        frames,
        frame_bits,
        syntax,
        word if word in (2, 4, 8) else 1,
        raw.get(0x7FE00001, b""),
        raw.get(0x7FE00002, b""),
    )


def _number(raw: dict[int, bytes], tag: int, syntax: TransferSyntax) -> int:
    return int.from_bytes(raw.get(tag, b"")[:2], "big" if syntax.big_endian else "little")


def _frames(value: bytes) -> int:
    text = value.strip(b" \0")
    if not text:
        return 1
    if not text.isdigit() or len(text) > 10 or not 0 < int(text) <= MAX_FRAMES:
        raise BadInstance(f"NumberOfFrames is no number from 1 to {MAX_FRAMES}")
    return int(text)


def index_frames(head: PixelHead, size: int) -> Ranges:
    """Find the frames of a data set of `size` bytes: yield ranges, be sent their bytes, return the index.

    Bounded: reads no more than the offset table and the headers of the items. Raises: BadInstance.
    """
    if head.length is not None:
        return _native(head, size)
    if head.syntax.media_type.startswith("video/"):
        # A video is one stream, however it was cut into items.
        items = yield from _items(head, size, 0)
        return _encapsulated(head, items[0][:1], items[1][-1:])
    _, table_length = yield from _item_header(head.offset)
    base = head.offset + 8 + table_length
    if table_length % 4 or table_length > 4 * MAX_FRAMES or base > size:
        raise BadInstance("the offset table of the pixel data cannot be")
    found = _extended(head, base, size)
    if found is None and table_length == 4 * head.frames:
        found = _basic((yield head.offset + 8, table_length), base, size)
    if found is None:
        found = yield from _grouped_items(head, size, table_length)
    return _encapsulated(head, *found)


def _native(head: PixelHead, size: int) -> FrameIndex:
    assert head.length is not None
    if not head.frame_bits or head.frame_bits > 8 * _MAX_FRAME_BYTES:
        raise BadInstance("Rows, Columns, SamplesPerPixel and BitsAllocated make no frame")
    if head.offset + head.length > size:
        raise BadInstance("the pixel data are cut short")
    if head.frames * head.frame_bits > 8 * head.length:
        raise BadInstance("the pixel data are shorter than Rows, Columns, BitsAllocated and NumberOfFrames say")
    return FrameIndex(
        head.frames,
        EXPLICIT_VR_LITTLE_ENDIAN,
        "application/octet-stream",
        head.offset,
        head.frame_bits,
        head.word,
    )


def _encapsulated(head: PixelHead, starts: array[int], ends: array[int]) -> FrameIndex:
    return FrameIndex(len(starts), head.syntax.uid, head.syntax.media_type, starts=starts, ends=ends)


_Spans: TypeAlias = "tuple[array[int], array[int]]"


def _item_header(offset: int) -> Generator[tuple[int, int], bytes, tuple[int, int]]:
    header = yield offset, 8
    if len(header) < 8 or header[:4] != _ITEM:
        raise BadInstance("the encapsulated pixel data do not begin with an item")
    return offset, _LENGTH(header, 4)[0]


def _extended(head: PixelHead, base: int, size: int) -> _Spans | None:
    """Return the spans of the extended offset table (PS3.3 C.7.6.3.1.8), None where it cannot be right."""
    if not head.offsets or len(head.offsets) != len(head.lengths) or len(head.offsets) != 8 * head.frames:
        return None
    offsets, lengths = struct.unpack(f"<{head.frames}Q", head.offsets), struct.unpack(f"<{head.frames}Q", head.lengths)
    if any(base + at + 8 + length > size for at, length in zip(offsets, lengths, strict=True)):
        return None
    starts = array("Q", (base + at for at in offsets))
    # The table leaves out the byte that makes an item's length even.
    ends = array("Q", (base + at + 8 + length + length % 2 for at, length in zip(offsets, lengths, strict=True)))
    return starts, ends


def _basic(table: bytes, base: int, size: int) -> _Spans | None:
    """Return the spans of the basic offset table (PS3.5 A.4), None where it cannot be right."""
    starts = array("Q", (base + at for (at,) in struct.iter_unpack("<L", table)))
    ends = array("Q", starts[1:])
    ends.append(size)
    if starts[0] != base or any(start + 8 > end for start, end in zip(starts, ends, strict=True)):
        return None
    return starts, ends


def _grouped_items(head: PixelHead, size: int, table_length: int) -> Generator[tuple[int, int], bytes, _Spans]:
    """Return the spans of the frames where no table tells them: from the items, and from how codestreams begin."""
    starts, ends, begins = yield from _items(head, size, table_length)
    if head.frames == 1:
        return starts[:1], ends[-1:]
    if len(starts) == head.frames:
        return starts, ends
    first = [n for n, begin in enumerate(begins) if begin]
    if len(first) != head.frames or first[0] != 0:
        raise BadInstance("the items of the pixel data do not tell its frames apart")
    last = [*first[1:], len(starts)]
    return array("Q", (starts[n] for n in first)), array("Q", (ends[n - 1] for n in last))


_BEGINNINGS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
_Items: TypeAlias = "tuple[array[int], array[int], bytearray]"


def _items(head: PixelHead, size: int, table_length: int) -> Generator[tuple[int, int], bytes, _Items]:
    """Return start and end of every item behind the table, and whether a JPEG codestream begins in it."""
    starts, ends, begins = array("Q"), array("Q"), bytearray()
    if not table_length:
        table_length = (yield from _item_header(head.offset))[1]
    at = head.offset + 8 + table_length
    window, window_at, wanted = b"", at, _WINDOW
    while at + 8 <= size:
        if at < window_at or at + 12 > window_at + len(window):
            window, window_at = (yield at, min(wanted, size - at)), at
        here = at - window_at
        if window[here : here + 4] != _ITEM:
            break
        length: int = _LENGTH(window, here + 4)[0]
        if at + 8 + length > size or len(starts) >= MAX_FRAMES:
            raise BadInstance("an item of the pixel data runs over the end of the object")
        starts.append(at)
        ends.append(at + 8 + length)
        begins.append(window[here + 8 : here + 12].startswith(_BEGINNINGS))
        at += 8 + length
        wanted = _WINDOW if length < _WINDOW // 4 else 12
    if not starts:
        raise BadInstance("the pixel data have no items")
    return starts, ends, begins
