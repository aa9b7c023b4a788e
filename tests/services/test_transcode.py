from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from dicomnode.dicom.part10 import write_file_meta
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dimse.outgoing import Opened, read_outgoing
from dicomnode.errors import BadInstance
from dicomnode.services.transcode import Transcode, TranscodeLimits
from tests.corpus import WHEEL, data_set_of, make, part10


async def _bytes(opened: Opened) -> bytes:
    data = bytes(opened.first)
    if opened.rest is not None:
        data += b"".join([chunk async for chunk in opened.rest])
    await opened.close()
    return data


async def _read(transcode: Transcode, outgoing: Any, target: str) -> pydicom.Dataset:
    data = await _bytes(await transcode.transcode(outgoing, target))
    return pydicom.dcmread(BytesIO(write_file_meta("1.2", "1.2.3", target) + data))


def _compressed() -> Path:
    return next(path for path in (WHEEL / name for name in ("JPEG2000.dcm", "examples_jpeg2k.dcm")) if path.exists())


@pytest.mark.parametrize("target", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
async def test_an_object_is_decoded_in_another_process(target: str, tmp_path: Path) -> None:
    path = _compressed()
    async with Transcode(folder=tmp_path) as transcode:
        ds = await _read(transcode, read_outgoing(path), target)
        assert (ds.pixel_array == pydicom.dcmread(path).pixel_array).all()
        [worker] = transcode._idle
        assert [name for folder in tmp_path.iterdir() for name in folder.iterdir()] == []
    assert worker._process.returncode is not None
    assert list(tmp_path.iterdir()) == []


async def test_many_at_once_share_few_processes(tmp_path: Path) -> None:
    outgoing = read_outgoing(_compressed())
    async with Transcode(TranscodeLimits(processes=2), folder=tmp_path) as transcode:
        results = await asyncio.gather(*(_read(transcode, outgoing, EXPLICIT_VR_LITTLE_ENDIAN) for _ in range(6)))
        assert len({result.PixelData for result in results}) == 1
        assert 1 <= len(transcode._idle) <= 2


class Elsewhere:
    """An object that is no file."""

    def __init__(self, file: bytes) -> None:
        self._data = data_set_of(file)
        ds = pydicom.dcmread(BytesIO(file), stop_before_pixels=True)
        self.sop_class_uid, self.sop_instance_uid = str(ds.SOPClassUID), str(ds.SOPInstanceUID)
        self.transfer_syntax_uid = str(ds.file_meta.TransferSyntaxUID)
        self.closed = 0

    async def open(self) -> Opened:
        async def rest() -> AsyncIterator[bytes]:
            yield self._data[100:200]
            yield self._data[200:]

        async def close() -> None:
            self.closed += 1

        return Opened(self._data[:100], rest(), close)


async def test_an_object_may_come_from_anywhere(tmp_path: Path) -> None:
    elsewhere = Elsewhere(part10(make()))
    async with Transcode(folder=tmp_path) as transcode:
        ds = await _read(transcode, elsewhere, IMPLICIT_VR_LITTLE_ENDIAN)
    assert ds.PixelData == bytes(range(128))
    assert elsewhere.closed == 1


async def test_a_large_result_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(part10(make(Rows=2000, Columns=2000, PixelData=os.urandom(8_000_000))))
    async with Transcode() as transcode:
        opened = await transcode.transcode(read_outgoing(path), IMPLICIT_VR_LITTLE_ENDIAN)
        assert opened.rest is not None
        data = await _bytes(opened)
    assert data.endswith(pydicom.dcmread(path).PixelData)


@pytest.mark.parametrize("compressed", [False, True])
async def test_an_object_longer_than_the_memory_allowed_is_no_matter(compressed: bool, tmp_path: Path) -> None:
    # Codecs and numpy alone are some 300 MB of addresses.
    path, size = tmp_path / "large.dcm", 600_000_000
    if compressed:
        frames = 600
        ds = make(Rows=1000, Columns=500, NumberOfFrames=1, PixelData=bytes(1_000_000))
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        one = next(generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData, ds.NumberOfFrames = encapsulate([one] * frames), frames
        path.write_bytes(part10(ds, RLELossless))
    else:
        whole = part10(make(Rows=1, Columns=1, PixelData=b"\0\0"))
        path.write_bytes(whole[:-6] + size.to_bytes(4, "little"))
        os.truncate(path, len(whole) - 2 + size)
    async with Transcode(TranscodeLimits(memory_bytes=400_000_000), folder=tmp_path) as transcode:
        opened = await transcode.transcode(read_outgoing(path), IMPLICIT_VR_LITTLE_ENDIAN)
        length = len(opened.first)
        assert opened.rest is not None
        async for chunk in opened.rest:
            length += len(chunk)
        await opened.close()
    assert size < length < size + 10_000


def _claiming(rows: int, columns: int) -> bytes:
    """Return a JPEG 2000 object whose codestream and attributes both claim a size that is not there."""
    ds = pydicom.dcmread(_compressed())
    stream = bytes(ds.PixelData)
    at = stream.index(b"\xff\x4f\xff\x51") + 8
    sizes = struct.pack(">8L", columns, rows, 0, 0, columns, rows, 0, 0)
    ds.PixelData = stream[:at] + sizes + stream[at + 32 :]
    ds.Rows, ds.Columns = rows, columns
    return part10(ds, ds.file_meta.TransferSyntaxUID)


def _bomb() -> bytes:
    """Return a deflated object of a few kilobytes that inflates to 600 MB."""
    whole = part10(make(), DeflatedExplicitVRLittleEndian)
    inner = zlib.decompress(data_set_of(whole), -15)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(inner) + b"".join(packer.compress(bytes(1_000_000)) for _ in range(600)) + packer.flush()
    return whole[: len(whole) - len(data_set_of(whole))] + packed


SMALL = TranscodeLimits(processes=1, memory_bytes=400_000_000, result_bytes=100_000_000, cpu_s=20, wall_s=40)


@pytest.mark.parametrize(
    "hostile",
    [
        lambda: _claiming(40_000, 40_000),
        lambda: _claiming(20_000, 2_000),
        lambda: _claiming(65_535, 65_535),
        _bomb,
        lambda: part10(make())[:-3],
    ],
    ids=["3 GB", "80 MB", "8 GB", "deflate bomb", "cut short"],
)
async def test_hostile_objects_are_told_and_the_next_is_served(hostile: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile.dcm"
    path.write_bytes(hostile())
    folder = tmp_path / "work"
    folder.mkdir()
    async with Transcode(SMALL, folder=folder) as transcode:
        with pytest.raises(BadInstance):
            await transcode.transcode(read_outgoing(path), IMPLICIT_VR_LITTLE_ENDIAN)
        ds = await _read(transcode, read_outgoing(_compressed()), EXPLICIT_VR_LITTLE_ENDIAN)
        assert ds.PixelData
        assert [name for inner in folder.iterdir() for name in inner.iterdir()] == []


async def test_a_process_that_dies_is_one_bad_object(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(part10(make(Rows=6000, Columns=6000, PixelData=bytes(72_000_000))))
    async with Transcode(TranscodeLimits(processes=1), targets=(EXPLICIT_VR_LITTLE_ENDIAN,)) as transcode:
        await _read(transcode, read_outgoing(_compressed()), EXPLICIT_VR_LITTLE_ENDIAN)
        transcode._idle[0]._process.kill()
        with pytest.raises(BadInstance, match="crashed"):
            await transcode.transcode(read_outgoing(path), IMPLICIT_VR_LITTLE_ENDIAN)
        assert (await _read(transcode, read_outgoing(path), IMPLICIT_VR_LITTLE_ENDIAN)).Rows == 6000


async def test_an_object_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with Transcode(TranscodeLimits(wall_s=0.0)) as transcode:
        with pytest.raises(BadInstance, match="more than 0 s"):
            await transcode.transcode(read_outgoing(_compressed()), EXPLICIT_VR_LITTLE_ENDIAN)
        assert transcode._idle == []


async def test_idle_processes_end() -> None:
    async with Transcode(TranscodeLimits(idle_s=0.05)) as transcode:
        await _read(transcode, read_outgoing(_compressed()), EXPLICIT_VR_LITTLE_ENDIAN)
        for _ in range(400):
            if not transcode._idle:
                break
            await asyncio.sleep(0.05)
        assert transcode._idle == []


async def test_who_gives_up_waiting_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Transcode(folder=tmp_path) as transcode:
        waiting = asyncio.ensure_future(transcode.transcode(read_outgoing(_compressed()), EXPLICIT_VR_LITTLE_ENDIAN))
        while transcode._folder is None:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await _read(transcode, read_outgoing(_compressed()), EXPLICIT_VR_LITTLE_ENDIAN)).PixelData
        assert [name for folder in tmp_path.iterdir() for name in folder.iterdir()] == []
