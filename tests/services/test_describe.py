from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicomnode.model.query import Location
from dicomnode.services.describe import Describe
from tests.corpus import corpus_files, identified, make, needs_corpus
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms

STUDY = "1.2"


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


def bulk_uri(location: Location) -> str:
    return f"bulk/{location.sop_uid}"


async def described(rooms: Rooms, study: str = STUDY, describe: Describe | None = None) -> list[dict[str, Any]]:
    locations = await rooms.retrieve.locate("default", study)
    pieces = [piece async for piece in (describe or rooms.describe).instances(locations, bulk_uri)]
    found: list[dict[str, Any]] = json.loads(b"".join(pieces))
    return found


async def fill(rooms: Rooms, series: int, instances: int) -> None:
    for s in range(series):
        for n in range(instances):
            uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": f"1.2.{s}", "SOPInstanceUID": f"1.2.{s}.{n}"}
            await rooms.take_in(make(**uids, SeriesNumber=s, InstanceNumber=n))


async def test_every_instance_in_order_with_all_attributes(rooms: Rooms) -> None:
    await fill(rooms, 3, 60)
    found = await described(rooms)
    assert [one["00080018"]["Value"][0] for one in found] == [f"1.2.{s}.{n}" for s in range(3) for n in range(60)]
    assert found[0]["7FE00010"] == {"vr": "OW", "BulkDataURI": "bulk/1.2.0.0/7FE00010"}
    assert found[0]["00280101"]["Value"] == [12]


async def test_what_is_remembered_is_never_out_of_date(rooms: Rooms) -> None:
    await fill(rooms, 1, 3)
    assert len(await described(rooms)) == 3
    assert len(await described(rooms)) == 3
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": "1.2.0", "SOPInstanceUID": "1.2.0.9"}
    await rooms.take_in(make(**uids, SeriesNumber=0, InstanceNumber=9))
    assert len(await described(rooms)) == 4


async def test_the_second_time_comes_from_the_cache(rooms: Rooms) -> None:
    await fill(rooms, 1, 3)
    first = await described(rooms)

    class NoHeads:
        async def head(self, location: Location, length: int) -> tuple[bytes, bool]:
            raise AssertionError(f"{location.key} was read for {length} bytes")

    assert await described(rooms, describe=Describe(NoHeads(), rooms.cache)) == first


async def test_long_headers_and_objects_without_pixels(rooms: Rooms) -> None:
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": "1.2.0"}
    report = make(**uids, SOPInstanceUID="1.2.0.1", InstanceNumber=1)
    del report.PixelData
    report.TextValue = "x" * 100_000
    await rooms.take_in(report)
    await rooms.take_in(make(**uids, SOPInstanceUID="1.2.0.2", InstanceNumber=2, TextValue="y" * 200_000))
    found = await described(rooms)
    assert found[0]["0040A160"]["Value"] == ["x" * 100_000]
    assert found[1]["0040A160"]["Value"] == ["y" * 200_000]


async def test_one_that_cannot_be_read_does_not_hide_the_others(rooms: Rooms) -> None:
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": "1.2.0"}
    await rooms.take_in(make(**uids, SOPInstanceUID="1.2.0.1", InstanceNumber=1))
    broken = await rooms.take_in(make(**uids, SOPInstanceUID="1.2.0.2", InstanceNumber=2))
    kept = await rooms.storage.read(broken.key)
    await rooms.storage.delete((broken.key,))
    await rooms.storage.put(broken.key, (kept[:400], b"\xff" * (len(kept) - 400)))
    found = await described(rooms)
    assert found[0]["00100020"]["Value"] == ["P1"]
    assert found[1] == {
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
        "00080018": {"vr": "UI", "Value": ["1.2.0.2"]},
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "0020000E": {"vr": "UI", "Value": ["1.2.0"]},
    }


@needs_corpus
async def test_real_objects_say_what_pydicom_reads(rooms: Rooms) -> None:
    paths = [path for path in corpus_files("mr-study") if identified(path) is not None][:6]
    objects = [pydicom.dcmread(path) for path in paths]
    for path, ds in zip(paths, objects, strict=True):
        offset = _data_set_offset(path)
        await rooms.take_in_bytes(path.read_bytes()[offset:], ds.file_meta.TransferSyntaxUID)
    found = {one["00080018"]["Value"][0]: one for one in await described(rooms, objects[0].StudyInstanceUID)}
    for ds in objects:
        one = Dataset.from_json(found[ds.SOPInstanceUID], bulk_data_uri_handler=lambda _: b"")
        assert {e.tag for e in one} == {e.tag for e in ds}
        assert (one.PatientName, one.StudyDate, one.ImagePositionPatient) == (
            ds.PatientName,
            ds.StudyDate,
            ds.ImagePositionPatient,
        )


def _data_set_offset(path: Path) -> int:
    meta = pydicom.filereader.read_file_meta_info(path)
    return 132 + 12 + int(meta.FileMetaInformationGroupLength)
