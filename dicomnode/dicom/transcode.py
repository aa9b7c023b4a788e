"""A data set from one transfer syntax to another, from file to file: from any that can be read to any uncompressed one.

Nothing but the header and one frame at a time is held in memory. The object stays the same object: its UID stays, and
so does what it says of lossy compression (PS3.3 C.7.6.1.1.5).
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from dicomnode.dicom import pixels
from dicomnode.dicom.pixels import Frame, Image
from dicomnode.dicom.recode import Recoder, Replaced, swapped
from dicomnode.dicom.scan import BIG, LITTLE, PIXEL_DATA, CutShort, Element, Walk, looks_implicit
from dicomnode.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    GE_PRIVATE_IMPLICIT_VR,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
    of,
)
from dicomnode.errors import BadInstance

TARGETS: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)
"""What can be made."""

_SAMPLES = 0x00280002
_PHOTOMETRIC = 0x00280004
_PLANAR = 0x00280006
_FRAMES = 0x00280008
_ROWS = 0x00280010
_COLUMNS = 0x00280011
_ALLOCATED = 0x00280100
_STORED = 0x00280101
_SIGNED = 0x00280103
_LOSSY = 0x00282110
_LOSSY_METHOD = 0x00282114
_OFFSETS = 0x7FE00001
_LENGTHS = 0x7FE00002
_CHUNK = 1024 * 1024  # divisible by the width of any number


class Sink(Protocol):
    """Where the result goes."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""


class Parts(msgspec.Struct, frozen=True):
    """A data set taken apart: what is before the pixel data, that itself, what is behind, and where these begin."""

    data: memoryview
    source: TransferSyntax
    implicit: bool
    before: list[Element]
    pixel: Element | None
    after: list[Element]
    after_at: int

    def text(self, tag: int) -> str:
        """Return a value of the top level as text, "" where it is absent."""
        for element in self.before:
            if element[0] == tag:
                return bytes(self.data[element[2] : element[2] + min(element[3], 1024)]).decode("latin-1").strip(" \0")
        return ""

    def value(self, tag: int) -> bytes:
        """Return a value of the top level, b"" where it is absent."""
        for element in self.before:
            if element[0] == tag:
                return bytes(self.data[element[2] : element[2] + element[3]])
        return b""

    def number(self, tag: int, absent: int) -> int:
        """Return the first number of 16 bits of a value."""
        value = self.value(tag)
        return int.from_bytes(value[:2], "big" if self.source.big_endian else "little") if value else absent


def transcode(source: Path, offset: int, source_uid: str, target: Path, target_uid: str) -> None:
    """Write the data set that begins at byte `offset` of `source`, in transfer syntax `target_uid`, to `target`.

    Raises: BadInstance, where it is cut short or cannot be decoded; CodecMissing.
    """
    if target_uid not in TARGETS:
        raise BadInstance(f"nothing can be encoded in {of(target_uid).name}")
    syntax = of(source_uid)
    if not syntax.known or source_uid == GE_PRIVATE_IMPLICIT_VR:
        raise BadInstance(f"{syntax.name} cannot be decoded")
    if syntax.deflated:
        source, offset = _inflated(source, offset, target.with_name(target.name + ".inflated")), 0
    with source.open("rb") as file, target.open("wb") as sink:
        if not file.seek(0, 2):
            raise BadInstance("there are no bytes")
        # Not closed: an exception on its way may still hold a view of it.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _write(memoryview(mapped)[offset:], file, offset, syntax, of(target_uid), sink)
    if syntax.deflated:
        source.unlink()


def _write(
    data: memoryview, file: IO[bytes], offset: int, source: TransferSyntax, target: TransferSyntax, sink: IO[bytes]
) -> None:
    try:
        parts = _parts(data, source)
    except CutShort as short:
        raise BadInstance(str(short)) from None
    out: Sink = sink
    deflater = _Deflater(sink) if target.deflated else None
    if deflater is not None:
        out = deflater
    recoder = Recoder(data, source, target)
    if parts.pixel is None:
        out.write(recoder.top(0, parts.before, {}, implicit=parts.implicit))
    elif parts.pixel[5]:
        file.seek(offset + parts.pixel[2])
        _decode(parts, parts.pixel, file, recoder, target, out)
    else:
        out.write(recoder.top(0, parts.before, {}, implicit=parts.implicit))
        _copy(parts, parts.pixel, recoder, target, out)
    if parts.after:
        out.write(recoder.top(parts.after_at, parts.after, {}, implicit=parts.implicit))
    if deflater is not None:
        deflater.end()


def _parts(data: memoryview, source: TransferSyntax) -> Parts:
    grammar = BIG if source.big_endian else LITTLE
    implicit = looks_implicit(data, 0, len(data), source.implicit)
    before, _ = Walk(data, grammar, to_pixels=True).data_set(0, len(data), implicit, 0)
    if not before or before[-1][0] not in PIXEL_DATA:
        return Parts(data, source, implicit, before, None, [], 0)
    pixel = before.pop()
    header_at = before[-1][2] + before[-1][3] if before else 0
    walk = Walk(data, grammar)
    after_at = walk.after(header_at, implicit)
    after, _ = walk.data_set(after_at, len(data), implicit, 0)
    return Parts(data, source, implicit, before, pixel, after, after_at)


def _copy(parts: Parts, pixel: Element, recoder: Recoder, target: TransferSyntax, out: Sink) -> None:
    """Write pixel data that is not compressed (PS3.5 8.1, A.1-A.3)."""
    tag, vr, at, length, _, _ = pixel
    allocated = parts.number(_ALLOCATED, 16)
    if vr is None or parts.implicit:
        vr = {0x7FE00008: "OF", 0x7FE00009: "OD"}.get(tag) or ("OB" if allocated <= 8 else "OW")
    swaps = parts.source.big_endian != target.big_endian
    width = _width(vr, allocated)
    out.write(recoder.header(tag, vr, length + (length & 1)))
    for start in range(at, at + length, _CHUNK):
        chunk = parts.data[start : min(start + _CHUNK, at + length)]
        out.write(swapped(chunk, vr, width) if swaps else bytes(chunk))
    if length & 1:
        out.write(b"\0")


def _width(vr: str, bits_allocated: int) -> int:
    """Return how many bytes change places in another order: a sample of 32 bits in OW goes as a whole."""
    return bits_allocated // 8 if vr == "OW" and bits_allocated in (32, 64) else 0


def _decode(parts: Parts, pixel: Element, file: IO[bytes], recoder: Recoder, target: TransferSyntax, out: Sink) -> None:
    """Write the header and the pixel data, which `file` stands at, decoded (PS3.5 8.2, A.4).

    The header says what the first frame turns out to be.
    """
    image = _image(parts)
    tables = parts.value(_OFFSETS), parts.value(_LENGTHS)
    frames = pixels.frames(file, parts.source.uid, image, tables if all(tables) else None)
    first = next(frames)
    out.write(recoder.top(0, parts.before, _changes(parts, image, first), implicit=parts.implicit))
    vr = "OB" if image.bits_allocated <= 8 else "OW"
    length = image.bytes + (image.bytes & 1)
    out.write(recoder.header(0x7FE00010, vr, length))
    for frame in _alike(chain((first,), frames)):
        out.write(swapped(frame.data, vr, _width(vr, image.bits_allocated)) if target.big_endian else frame.data)
    if image.bytes & 1:
        out.write(b"\0")


def _alike(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield `frames`. Raises: BadInstance, where their samples mean different things."""
    meaning = None
    for frame in frames:
        meaning = meaning or frame.photometric_interpretation
        if frame.photometric_interpretation != meaning:
            raise BadInstance("frames are in different colour spaces")
        yield frame


def _image(parts: Parts) -> Image:
    try:
        count = int(parts.text(_FRAMES) or 1)
    except ValueError:
        raise BadInstance("NumberOfFrames is no number") from None
    return Image(
        rows=parts.number(_ROWS, 0),
        columns=parts.number(_COLUMNS, 0),
        samples_per_pixel=parts.number(_SAMPLES, 1),
        bits_allocated=parts.number(_ALLOCATED, 0),
        bits_stored=parts.number(_STORED, 0),
        pixel_representation=parts.number(_SIGNED, 0),
        photometric_interpretation=parts.text(_PHOTOMETRIC),
        planar_configuration=parts.number(_PLANAR, 0),
        number_of_frames=count,
    )


def _changes(parts: Parts, image: Image, first: Frame) -> dict[int, Replaced]:
    """Return what the header must say differently of decoded pixel data."""
    changes: dict[int, Replaced] = {_OFFSETS: None, _LENGTHS: None}
    if first.photometric_interpretation != image.photometric_interpretation:
        changes[_PHOTOMETRIC] = "CS", first.photometric_interpretation.encode("ascii")
    if image.samples_per_pixel > 1 and image.planar_configuration:
        changes[_PLANAR] = "US", b"\0\0"
    method = pixels.LOSSY_METHODS.get(parts.source.uid)
    if method and not parts.text(_LOSSY):
        changes[_LOSSY] = "CS", b"01"
        if not parts.text(_LOSSY_METHOD):
            changes[_LOSSY_METHOD] = "CS", method.encode("ascii")
    return changes


class _Deflater:
    """A sink that deflates (PS3.5 A.5)."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._size = 0

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self._put(self._deflater.compress(data))

    def end(self) -> None:
        """Write what is left, and a byte that makes the length even."""
        self._put(self._deflater.flush())
        if self._size & 1:
            self._put(b"\0")

    def _put(self, data: bytes) -> None:
        self._size += len(data)
        self._sink.write(data)


def _inflated(source: Path, offset: int, target: Path) -> Path:
    """Inflate into `target`. How much it may become is up to who set RLIMIT_FSIZE. Raises: BadInstance."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with source.open("rb") as file, target.open("wb") as sink:
        file.seek(offset)
        try:
            while not inflater.eof:
                packed = inflater.unconsumed_tail or file.read(_CHUNK)
                got = inflater.decompress(packed, _CHUNK)
                if not packed and not got:
                    raise BadInstance("the deflated data set is cut short")
                sink.write(got)
        except zlib.error:
            raise BadInstance("the deflated data set cannot be inflated") from None
    return target
