"""Objects in JPEG 2000 and their conversion without a process of its own, for tests of what comes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from dicomnode.dicom.transcode import TARGETS, transcode
from dicomnode.dimse.outgoing import Opened, Sendable, open_file
from dicomnode.model.messages import DicomObjectMeta, TransferStatus
from dicomnode.model.viewers import Viewers
from dicomnode.services.represent import Represent
from tests.corpus import WHEEL, data_set_of, part10
from tests.rooms import Rooms

JPEG_2000 = "1.2.840.10008.1.2.4.90"
MPEG_2 = "1.2.840.10008.1.2.4.100"
PLAIN = "1.2.840.10008.1.2.1"
VIEWERS = Viewers(frozenset({PLAIN, "1.2.840.10008.1.2"}), PLAIN)


class Here:
    """A transcoder in this process; `made` counts what it did, `pause` is waited for before it."""

    targets = TARGETS

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made = 0
        self.pause = asyncio.Event()
        self.pause.set()

    async def transcode(self, sendable: Sendable, transfer_syntax_uid: str) -> Opened:
        opened = await sendable.open()
        data = bytes(opened.first)
        if opened.rest is not None:
            data += b"".join([bytes(chunk) async for chunk in opened.rest])
        await opened.close()
        await self.pause.wait()
        self.made += 1
        source, target = self._folder / f"{self.made}.in", self._folder / f"{self.made}.out"
        source.write_bytes(data)
        transcode(source, 0, sendable.transfer_syntax_uid, target, transfer_syntax_uid)
        return open_file(target, 0, transfer_syntax_uid)


def jpeg_2000(**attributes: str) -> Dataset:
    """Return an MR image in lossless JPEG 2000, of its own UIDs but for `attributes`."""
    ds = pydicom.dcmread(WHEEL / "MR_small_jp2klossless.dcm")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, generate_uid())
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def file_of(ds: Dataset) -> bytes:
    """Return `ds`, of `jpeg_2000`, as a file."""
    return part10(ds, UID(JPEG_2000))


def pixels_of(file: Path | None = None) -> bytes:
    """Return the pixels of such an image, as they were before they were compressed."""
    return bytes(pydicom.dcmread(file or WHEEL / "MR_small.dcm").PixelData)


async def taken_in(rooms: Rooms, ds: Dataset, syntax: str = JPEG_2000) -> DicomObjectMeta:
    """Have `ds` kept and indexed; return the message that asks for its conversion."""
    stored = await rooms.take_in_bytes(data_set_of(part10(ds, UID(syntax))), syntax)
    (location,) = await rooms.retrieve.locate("default", stored.study_uid, stored.series_uid, stored.sop_instance_uid)
    return DicomObjectMeta(
        trace_id="t", worker_node_id="STOW-RS", tenant_id="default", patient_id="P", study_uid=location.study_uid,
        series_uid=location.series_uid, sop_uid=location.sop_uid, sop_class_uid=location.sop_class_uid,
        file_size=location.size, file_path=location.key, data_set_offset=location.data_set_offset,
        sha256=location.sha256, transfer_syntax_uid=location.transfer_syntax_uid, number_of_frames=1,
        created_time="2026-01-02T03:04:05.678+00:00", target_ts=PLAIN, transfer_status=TransferStatus.NEEDED,
    )  # fmt: skip


async def converted(rooms: Rooms, folder: Path, **attributes: str) -> tuple[DicomObjectMeta, Dataset]:
    """Have an object in JPEG 2000 kept, and in explicit little endian too; return its message and the object."""
    ds = jpeg_2000(**attributes)
    meta = await taken_in(rooms, ds)
    assert await Represent(rooms.storage, Here(folder)).represent(meta) is TransferStatus.DONE
    return meta, ds
