from __future__ import annotations

import contextlib
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    MPEG4HP41,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.frames import FrameIndex, PixelHead, index_frames, read_pixel_head
from dicomnode.dicom.part10 import read_file_meta
from dicomnode.errors import BadInstance, NodeError, NotFound
from tests.corpus import corpus_files, data_set_of, make, part10, wheel_files

EXPLICIT = str(ExplicitVRLittleEndian)


def indexed(data_set: bytes, uid: str, *, size: int | None = None) -> tuple[FrameIndex, list[tuple[int, int]]]:
    """Return the frames of a data set and the ranges that had to be read for them."""
    head = read_pixel_head(data_set, transfer_syntax.of(uid), complete=True)
    assert head is not None
    wanted = index_frames(head, len(data_set) if size is None else size)
    asked: list[tuple[int, int]] = []
    try:
        offset, length = next(wanted)
        while True:
            asked.append((offset, length))
            offset, length = wanted.send(data_set[offset : offset + length])
    except StopIteration as done:
        index: FrameIndex = done.value
        return index, asked


def all_frames(data_set: bytes, uid: str) -> list[bytes]:
    index, _ = indexed(data_set, uid)
    found = []
    for number in range(1, index.count + 1):
        offset, length = index.range_of(number)
        found.append(bytes(index.frame(number, data_set[offset : offset + length])))
    return found


def encapsulated(pixel_data: bytes, frames: int, uid: UID = JPEGBaseline8Bit, **more: Any) -> bytes:
    ds = make(NumberOfFrames=frames, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=pixel_data, **more)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return data_set_of(part10(ds, uid))


JPEGS = [b"\xff\xd8\xff" + bytes([n]) * (10 + n) for n in range(5)]
EVEN = [frame + b"\0" * (len(frame) % 2) for frame in JPEGS]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_native_frames_follow_one_another(syntax: UID) -> None:
    pixels = bytes(range(256)) * 2
    data_set = data_set_of(part10(make(NumberOfFrames=4, PixelData=pixels), syntax))
    assert all_frames(data_set, syntax) == [pixels[n : n + 128] for n in range(0, 512, 128)]


@pytest.mark.parametrize(("bits", "dtype"), [(16, "u2"), (32, "u4"), (8, "u1")])
@pytest.mark.parametrize("rows", [3, 4])
def test_big_endian_words_come_little_endian(bits: int, dtype: str, rows: int) -> None:
    values = np.arange(2 * rows * 5).reshape(2, rows, 5)
    raw = values.astype(">" + dtype).tobytes()
    if bits == 8:  # OW in big endian: pairs of bytes change places (PS3.5 8.1.1)
        raw = np.frombuffer(raw + b"\0" * (len(raw) % 2), "<u2").byteswap().tobytes()
    more = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "Rows": rows, "Columns": 5}
    ds = make(NumberOfFrames=2, PixelData=raw, **more)
    ds["PixelData"].VR = "OW"
    frames = all_frames(data_set_of(part10(ds, ExplicitVRBigEndian)), ExplicitVRBigEndian)
    assert frames == [frame.astype("<" + dtype).tobytes() for frame in values]


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), st.randoms())
@settings(deadline=None, max_examples=30)
def test_one_bit_frames_need_not_begin_at_a_byte(rows: int, columns: int, frames: int, random: Any) -> None:
    bits = np.array([random.getrandbits(1) for _ in range(rows * columns * frames)], np.uint8)
    packed = np.packbits(bits, bitorder="little").tobytes()
    more = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "Rows": rows, "Columns": columns}
    ds = make(NumberOfFrames=frames, PixelData=packed + b"\0" * (len(packed) % 2), **more)
    found = all_frames(data_set_of(part10(ds)), EXPLICIT)
    expected = [np.packbits(part, bitorder="little").tobytes() for part in bits.reshape(frames, -1)]
    assert found == expected


def test_with_a_basic_offset_table_only_the_table_is_read() -> None:
    data_set = encapsulated(encapsulate(JPEGS, has_bot=True), 5)
    assert all_frames(data_set, JPEGBaseline8Bit) == EVEN
    _, asked = indexed(data_set, JPEGBaseline8Bit)
    assert [length for _, length in asked] == [8, 20]


def test_with_an_extended_offset_table() -> None:
    pixel_data, offsets, lengths = encapsulate_extended(EVEN)
    data_set = encapsulated(pixel_data, 5, ExtendedOffsetTable=offsets, ExtendedOffsetTableLengths=lengths)
    assert all_frames(data_set, JPEGBaseline8Bit) == EVEN
    _, asked = indexed(data_set, JPEGBaseline8Bit)
    assert [length for _, length in asked] == [8]


def test_without_tables_items_are_walked() -> None:
    assert all_frames(encapsulated(encapsulate(JPEGS, has_bot=False), 5), JPEGBaseline8Bit) == EVEN


def test_one_frame_of_several_fragments() -> None:
    whole = b"\xff\xd8\xff" + bytes(range(200)) + b"\0"
    for has_bot in (True, False):
        data_set = encapsulated(encapsulate([whole], fragments_per_frame=3, has_bot=has_bot), 1)
        assert all_frames(data_set, JPEGBaseline8Bit) == [whole]


@pytest.mark.parametrize("begin", [b"\xff\xd8\xff", b"\xff\x4f\xff\x51"])
def test_fragments_without_a_table_are_told_apart_by_how_codestreams_begin(begin: bytes) -> None:
    frames = [begin + bytes([n]) * 101 for n in range(3)]
    data_set = encapsulated(encapsulate(frames, fragments_per_frame=4, has_bot=False), 3)
    assert [f.rstrip(b"\0") for f in all_frames(data_set, JPEG2000Lossless)] == [f.rstrip(b"\0") for f in frames]


def test_fragments_that_cannot_be_told_apart_are_refused() -> None:
    data_set = encapsulated(encapsulate([bytes(100)] * 3, fragments_per_frame=2, has_bot=False), 3)
    with pytest.raises(BadInstance, match="apart"):
        indexed(data_set, JPEG2000Lossless)


def test_a_video_is_one_stream() -> None:
    data_set = encapsulated(encapsulate([b"ab" * 50], fragments_per_frame=4, has_bot=False), 300, MPEG4HP41)
    assert all_frames(data_set, MPEG4HP41) == [b"ab" * 50]


def test_large_fragments_are_not_read_to_find_them() -> None:
    data_set = encapsulated(encapsulate([b"\xff\xd8\xff\0" + bytes(500_000)] * 6, has_bot=False), 6)
    _, asked = indexed(data_set, JPEGBaseline8Bit)
    assert sum(length for _, length in asked) < 300_000


def native(**more: Any) -> bytes:
    return data_set_of(part10(make(**more)))


@pytest.mark.parametrize(
    ("data_set", "told"),
    [
        (native(NumberOfFrames=2), "shorter than"),
        (native(Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1), "NumberOfFrames"),
        (native(Rows=65535, Columns=65535), "make no frame"),
        (native(Rows=512, Columns=512), "shorter than"),
        (native(Rows=0), "make no frame"),
        (native(BitsAllocated=0), "make no frame"),
    ],
)
def test_dimensions_that_lie(data_set: bytes, told: str) -> None:
    with pytest.raises(BadInstance, match=told):
        indexed(data_set, EXPLICIT)


def item(data: bytes, length: int | None = None) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(data) if length is None else length) + data


END = b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize(
    ("frames", "value"),
    [
        (2, item(b"", 2**32 - 2) + END),  # the table is longer than the object
        (2, item(struct.pack("<2L", 0, 2**31)) + item(b"ab") * 2 + END),  # an offset outside, falls back to items
        (2, item(struct.pack("<2L", 10, 0)) + item(b"ab") * 2 + END),  # offsets that go backwards
        (1, item(b"") + item(b"ab", 2**31) + END),  # an item longer than the object
        (1, item(b"") + END),  # no items at all
        (1, END),
        (2, item(b"abc") + item(b"ab") * 2 + END),  # a table that is no table
    ],
)
def test_offsets_that_lie_are_caught_or_made_good(frames: int, value: bytes) -> None:
    # pydicom does not write such data, so the value is put behind a header of our own.
    head = native(NumberOfFrames=frames)
    head = head[: head.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
    data_set = head + value
    try:
        found = all_frames(data_set, JPEGBaseline8Bit)
    except BadInstance:
        return
    assert found == [b"ab"] * frames


def test_a_table_that_points_elsewhere_is_caught_when_read() -> None:
    index = FrameIndex(1, JPEGBaseline8Bit, "image/jpeg")
    index.starts.append(0)
    index.ends.append(20)
    for read in (b"", b"garbage, and more of it", item(b"ab", 500), END):
        with pytest.raises(BadInstance):
            index.frame(1, read)


@given(st.binary(max_size=200), st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_any_encapsulated_bytes_end_well(value: bytes, frames: int) -> None:
    head = PixelHead(0, None, frames, 8, transfer_syntax.of(JPEGBaseline8Bit))
    wanted = index_frames(head, len(value))
    try:
        offset, length = next(wanted)
        while True:
            offset, length = wanted.send(value[offset : offset + length])
    except StopIteration as done:
        index: FrameIndex = done.value
    except BadInstance:
        return
    assert index.count >= 1
    for number in range(1, index.count + 1):
        offset, length = index.range_of(number)
        assert 0 <= offset <= offset + length <= len(value)


def test_a_head_that_is_too_short_asks_for_more() -> None:
    data_set = native()
    syntax = transfer_syntax.of(EXPLICIT)
    end = data_set.index(b"\xe0\x7f\x10\x00") + 12
    for length in range(end):
        assert read_pixel_head(data_set[:length], syntax, complete=False) is None
    assert read_pixel_head(data_set[:end], syntax, complete=False) is not None


def test_an_instance_without_pixel_data() -> None:
    ds = make()
    del ds.PixelData
    with pytest.raises(NotFound, match="no pixel data"):
        indexed(data_set_of(part10(ds)), EXPLICIT)


@pytest.mark.parametrize("number", [0, 2, 10**9])
def test_frames_that_are_not_there(number: int) -> None:
    index, _ = indexed(native(), EXPLICIT)
    with pytest.raises(NotFound):
        index.range_of(number)


def _real() -> list[Any]:
    return [pytest.param(path, id=path.name) for path in (*wheel_files(), *corpus_files("transfer-syntaxes"))]


@pytest.mark.parametrize("path", _real())
def test_real_objects_have_the_frames_that_pydicom_finds(path: Any) -> None:
    file = path.read_bytes()
    try:
        ds = pydicom.dcmread(BytesIO(file), force=True)
        uid = ds.file_meta.TransferSyntaxUID
    except Exception as error:  # noqa: BLE001 -- whatever pydicom cannot read is no oracle
        pytest.skip(f"pydicom cannot read it: {error}")
    if "PixelData" not in ds or uid == "1.2.840.10008.1.2.1.99":
        pytest.skip("no pixel data, or deflated (tested in tests/services/test_retrieve.py)")
    meta = read_file_meta(file, complete=True)
    assert meta is not None
    data_set = file[meta.data_set_offset :]
    expected = _by_pydicom(ds, uid)
    if expected is None or path.name == "MR_truncated.dcm":
        with contextlib.suppress(NodeError):
            all_frames(data_set, meta.transfer_syntax_uid)
        return
    assert all_frames(data_set, meta.transfer_syntax_uid) == expected


def _by_pydicom(ds: Dataset, uid: UID) -> list[bytes] | None:
    try:
        frames = int(ds.get("NumberOfFrames") or 1)
        if uid.is_encapsulated:
            return [bytes(frame) for frame in generate_frames(ds.PixelData, number_of_frames=frames)]
    except Exception:  # noqa: BLE001 -- nor is what it cannot take apart
        return None
    try:
        samples = 2 if ds.get("PhotometricInterpretation") == "YBR_FULL_422" else ds.SamplesPerPixel
        size = ds.Rows * ds.Columns * samples * ds.BitsAllocated // 8
    except (AttributeError, TypeError):
        return None
    if uid == ExplicitVRBigEndian or ds.BitsAllocated == 1:
        return None
    return [ds.PixelData[n * size : (n + 1) * size] for n in range(frames)]


def test_rle_has_one_fragment_a_frame() -> None:
    frames = [struct.pack("<L", 1) + bytes(60) + bytes([n]) * 10 for n in range(3)]
    assert all_frames(encapsulated(encapsulate(frames, has_bot=False), 3), RLELossless) == frames
