"""Objects that are kept in a second transfer syntax: who excludes the first gets that, everyone else the original."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import aiohttp
import pydicom
import pytest

from dicomnode.model.messages import DicomObjectMeta
from tests.converting import JPEG_2000, PLAIN, converted, file_of, jpeg_2000, pixels_of, taken_in
from tests.corpus import data_set_of
from tests.roles.server.parts import parse
from tests.roles.server.test_wado import get
from tests.rooms import Rooms

TYPE = "application/dicom; transfer-syntax="


def _url(meta: DicomObjectMeta) -> str:
    return f"/dicomweb/studies/{meta.study_uid}/series/{meta.series_uid}/instances/{meta.sop_uid}"


@pytest.mark.parametrize(
    "accept", ["", "application/dicom", f"{TYPE}*", f"{TYPE}{JPEG_2000}", f"{TYPE}*, {TYPE}{PLAIN}"]
)
async def test_who_takes_the_original_gets_it(
    accept: str, rooms: Rooms, web: aiohttp.ClientSession, tmp_path: Path
) -> None:
    meta, ds = await converted(rooms, tmp_path)
    headers, content = await get(web, _url(meta), accept)
    if headers["Content-Type"].startswith("multipart"):
        ((_, content),) = parse(headers, content)
    assert content == await rooms.storage.read(meta.file_path)
    assert data_set_of(content) == data_set_of(file_of(ds))


@pytest.mark.parametrize(
    "accept", [f"{TYPE}{PLAIN}", f'multipart/related; type="application/dicom"; transfer-syntax={PLAIN}']
)
async def test_who_excludes_it_gets_the_form(
    accept: str, rooms: Rooms, web: aiohttp.ClientSession, tmp_path: Path
) -> None:
    meta, ds = await converted(rooms, tmp_path)
    headers, content = await get(web, _url(meta), accept)
    kind = headers["Content-Type"]
    if kind.startswith("multipart"):
        ((kind, content),) = parse(headers, content)
    assert kind == f"{TYPE}{PLAIN}"
    got = pydicom.dcmread(BytesIO(content))
    assert got.file_meta.TransferSyntaxUID == PLAIN
    assert (got.SOPInstanceUID, bytes(got.PixelData)) == (ds.SOPInstanceUID, pixels_of())


async def test_each_has_an_etag_of_its_own(rooms: Rooms, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path)
    for path, accept in ((_url(meta), TYPE), (f"{_url(meta)}/frames/1", "application/octet-stream; transfer-syntax=")):
        tags = []
        for syntax in ("*", PLAIN):
            headers, _ = await get(web, path, accept + syntax)
            tags.append(headers["ETag"])
            assert headers["Vary"] == "Accept"
            await get(web, path, accept + syntax, 304, **{"If-None-Match": headers["ETag"]})
        assert tags[0] != tags[1]
    await get(web, _url(meta), TYPE + PLAIN, 200, **{"If-None-Match": tags[0]})


async def test_a_study_of_both_kinds(rooms: Rooms, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path, StudyInstanceUID="1.2.3")
    path = f"/dicomweb/studies/{meta.study_uid}"
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={PLAIN}'
    headers, content = await get(web, path, accept)
    assert [kind for kind, _ in parse(headers, content)] == [f"{TYPE}{PLAIN}"]
    assert int(headers["Content-Length"]) == len(content)
    await taken_in(rooms, jpeg_2000(StudyInstanceUID="1.2.3"))
    await get(web, path, accept, 406)
    headers, content = await get(web, path)
    assert {kind for kind, _ in parse(headers, content)} == {f"{TYPE}{JPEG_2000}"}


async def test_frames(rooms: Rooms, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path)
    octets = f"application/octet-stream; transfer-syntax={PLAIN}"
    for path in (f"{_url(meta)}/frames/1", f"{_url(meta)}/bulkdata/7FE00010"):
        headers, content = await get(web, path, octets)
        assert (headers["Content-Type"], content) == (octets, pixels_of())
        headers, content = await get(
            web, path, f'multipart/related; type="application/octet-stream"; transfer-syntax={PLAIN}'
        )
        assert parse(headers, content) == [(octets, pixels_of())]
        headers, _ = await get(web, path, "image/jp2; transfer-syntax=*")
        assert headers["Content-Type"] == f"image/jp2; transfer-syntax={JPEG_2000}"
        await get(web, path, "image/jpeg", 406)
    meant = f'multipart/related; type="application/octet-stream"; transfer-syntax={PLAIN}'
    headers, content = await get(web, _url(meta), meant)  # of a viewer that names the instance and means its pixels
    assert parse(headers, content) == [(octets, pixels_of())]
    await get(web, f"{_url(meta)}/frames/2", octets, 404)


async def test_wado_uri(rooms: Rooms, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path)
    path = f"/dicomweb/wado?requestType=WADO&studyUID={meta.study_uid}&objectUID={meta.sop_uid}"
    _, content = await get(web, path)
    assert content == await rooms.storage.read(meta.file_path)
    headers, content = await get(web, f"{path}&transferSyntax={PLAIN}")
    assert headers["Content-Type"] == f"{TYPE}{PLAIN}"
    assert bytes(pydicom.dcmread(BytesIO(content)).PixelData) == pixels_of()
    await get(web, f"{path}&transferSyntax=1.2.840.10008.1.2.4.50", "", 406)
