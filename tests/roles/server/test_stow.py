from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import aiohttp
import pytest
from pydicom.dataset import Dataset

from dicomnode.config import ServerLimitsTable, ServerTable
from tests.corpus import make, part10
from tests.roles.server.parts import DICOM_TYPE, body
from tests.rooms import Rooms

STUDY = "1.2.10"
LIMITS = ServerLimitsTable(
    held_in_memory=64 * 1024, part=1024 * 1024, request_body=3 * 1024 * 1024, parts=20, part_headers=1024, idle_s=1.0
)


@pytest.fixture
def table() -> ServerTable:
    return ServerTable(port=0, limits=LIMITS)


async def post(
    web: aiohttp.ClientSession, data: Any, path: str = "", content_type: str = DICOM_TYPE, **headers: str
) -> tuple[int, dict[str, Any]]:
    sent = {"Content-Type": content_type, **headers}
    async with web.post(f"/dicomweb/studies{path}", data=data, headers=sent) as response:
        text = await response.read()
        if response.status in (200, 202, 409) and "problem" not in response.headers["Content-Type"]:
            # The Python client compares the whole header: a charset behind it would be too much.
            assert response.headers["Content-Type"] == "application/dicom+json"
        return response.status, json.loads(text)


def items(answer: dict[str, Any], tag: str) -> list[Dataset]:
    return [Dataset.from_json(item) for item in answer.get(tag, {}).get("Value", [])]


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def keys(rooms: Rooms) -> list[str]:
    return [found.key async for found in rooms.storage.list()]


async def test_what_is_stored_is_told_and_found(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    objects = [make(StudyInstanceUID=STUDY) for _ in range(3)]
    status, answer = await post(web, body(*map(part10, objects)))
    assert status == 200
    assert answer["00081190"]["Value"] == [f"{web._base_url}/dicomweb/studies/{STUDY}"]
    referenced = items(answer, "00081199")
    assert [one.ReferencedSOPInstanceUID for one in referenced] == [ds.SOPInstanceUID for ds in objects]
    assert referenced[0].ReferencedSOPClassUID == objects[0].SOPClassUID
    assert referenced[0].RetrieveURL.endswith(f"/instances/{objects[0].SOPInstanceUID}")
    assert {"00081198", "0008119A"} & answer.keys() == set()
    async with web.get(referenced[0].RetrieveURL, headers={"Accept": "application/dicom"}) as response:
        assert response.status == 200
    async with web.get(f"/dicomweb/studies/{STUDY}/instances") as response:
        assert len(await response.json(content_type=None)) == 3


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
async def test_chunked_bodies_of_any_pieces(size: int, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    objects = [make(), make(Rows=400, Columns=400, PixelData=bytes(320_000))] if size > 7 else [make()]
    status, _ = await post(web, in_pieces(body(*map(part10, objects)), size))
    assert status == 200
    assert len(await keys(rooms)) == len(objects)


async def test_one_bad_part_never_spoils_the_others(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    good, late = make(StudyInstanceUID=STUDY), make(StudyInstanceUID=STUDY)
    nameless = make()
    del nameless.SOPInstanceUID
    cut = part10(make(StudyInstanceUID=STUDY, PatientComments="x" * 300))[:800]
    data = body(part10(good), b"not DICOM at all", part10(nameless), cut, b"", part10(late))
    status, answer = await post(web, data)
    assert status == 202
    assert [one.ReferencedSOPInstanceUID for one in items(answer, "00081199")] == [
        good.SOPInstanceUID,
        late.SOPInstanceUID,
    ]
    assert [one.FailureReason for one in items(answer, "00081198")] == [0xC000, 0xC000]
    assert [one.FailureReason for one in items(answer, "0008119A")] == [0xC000, 0xC000]
    comments = [item["00741048"]["Value"][0]["00000902"]["Value"][0] for item in answer["0008119A"]["Value"]]
    assert "not DICOM" in comments[0]
    assert len(await keys(rooms)) == 2


async def test_objects_of_another_study_are_refused(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    mine, other = make(StudyInstanceUID=STUDY), make()
    status, answer = await post(web, body(part10(mine), part10(other)), f"/{STUDY}")
    assert status == 202
    (failed,) = items(answer, "00081198")
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (other.SOPInstanceUID, 0xA901)
    status, answer = await post(web, body(part10(other)), f"/{STUDY}")
    assert status == 409
    assert "00081199" not in answer


async def test_parts_of_another_type_are_refused_and_the_others_kept(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    data = body(b"<html>", content_type="text/html")[:-8] + body(part10(make()), content_type="Application/DICOM; x=y")
    status, answer = await post(web, data)
    assert status == 202
    assert len(items(answer, "0008119A")) == 1
    assert len(await keys(rooms)) == 1


async def test_warnings_are_told(web: aiohttp.ClientSession) -> None:
    ds = make(StudyInstanceUID=STUDY)
    file = part10(ds).replace(b"20260102", b"2026-1-2")
    status, answer = await post(web, body(file))
    assert status == 200
    (referenced,) = items(answer, "00081199")
    assert referenced.WarningReason == 0xB007
    comment = answer["00081199"]["Value"][0]["00741048"]["Value"][0]["00000902"]["Value"][0]
    assert "StudyDate" in comment
    assert "2026-1-2" not in comment


async def test_one_object_may_be_the_whole_body(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    status, answer = await post(web, part10(make()), content_type="application/dicom")
    assert status == 200
    assert len(items(answer, "00081199")) == 1


async def test_large_parts_are_streamed(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    objects = [make(Rows=300, Columns=300, PixelData=bytes([n]) * 180_000) for n in range(3)]
    small = make()
    files = [part10(ds) for ds in (objects[0], small, *objects[1:])]
    status, answer = await post(web, body(*files))
    assert status == 200
    assert len(items(answer, "00081199")) == 4
    for one, file in zip(items(answer, "00081199"), files, strict=True):
        async with web.get(one.RetrieveURL, headers={"Accept": "application/dicom"}) as response:
            assert (await response.read())[-400:] == file[-400:]


async def test_a_large_part_that_is_bad_is_passed_over(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    too_long = part10(make(Rows=800, Columns=800, PixelData=bytes(1_280_000)))
    status, answer = await post(web, in_pieces(body(b"x" * 200_000, too_long, part10(make())), 100_000))
    assert status == 202
    assert len(items(answer, "00081199")) == 1
    assert len(items(answer, "0008119A")) == 1
    (failed,) = items(answer, "00081198")
    assert failed.FailureReason == 0xC000
    assert len(await keys(rooms)) == 1


async def test_a_body_cut_short_keeps_what_was_complete(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    first = part10(make())
    status, answer = await post(web, body(first, part10(make()))[:-300])
    assert status == 202
    assert len(items(answer, "00081199")) == 1
    assert len(items(answer, "0008119A")) == 1
    assert len(await keys(rooms)) == 1
    status, answer = await post(web, body(part10(make(PixelData=bytes(100_000), Rows=250, Columns=200)))[:-300])
    assert status in (400, 409)
    assert len(await keys(rooms)) == 1


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"--XX--", DICOM_TYPE, 400),
        (b"", DICOM_TYPE, 400),
        (b"x" * 100, DICOM_TYPE, 400),
        (b"{}", "application/dicom+json", 415),
        (b"{}", 'multipart/related; type="application/dicom+json"; boundary=XX', 415),
        (b"{}", "", 415),
        (b"--XX--", "multipart/related; type=application/dicom", 400),
        (b"--XX--", "multipart/form-data; boundary=XX", 415),
        (b"--XX\r\n" + b"a" * 5000, DICOM_TYPE, 400),
        (b"--XX\r\n\r\n\r\n" * 30, DICOM_TYPE, 409),
        (b"--XX\r\n\r\n\r\n--XX--", f'multipart/related; boundary="{"b" * 300}"', 400),
    ],
)
async def test_bodies_that_cannot_be_read(
    data: bytes, content_type: str, status: int, rooms: Rooms, web: aiohttp.ClientSession
) -> None:
    found, answer = await post(web, data, content_type=content_type)
    assert found == status, answer
    assert await keys(rooms) == []


async def test_a_body_over_the_limit(web: aiohttp.ClientSession) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"--XX\r\nContent-Type: text/html\r\n\r\n"
        for _ in range(64):
            yield bytes(100_000)

    try:
        status, _ = await post(web, endless())
    except aiohttp.ClientConnectionError:
        return  # the door may hang up on who goes on sending
    assert status == 413


async def test_a_client_that_stalls(web: aiohttp.ClientSession) -> None:
    reader, writer = await _raw(web)
    writer.write(
        b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/related; type=application/dicom; boundary=XX\r\n\r\n--XX\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_client_that_asks_whether_to_go_on(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    reader, writer = await _raw(web)
    data = body(part10(make()))
    head = (
        f"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nExpect: 100-continue\r\n"
        f"Content-Type: {DICOM_TYPE}\r\n\r\n"
    )
    writer.write(head.encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert await reader.readline() == b"\r\n"
    writer.write(data)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert len(await keys(rooms)) == 1


async def _raw(web: aiohttp.ClientSession) -> Any:
    assert web._base_url is not None
    return await asyncio.open_connection(web._base_url.host, web._base_url.port)


async def test_a_client_that_goes_away_leaves_nothing_half(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    _, writer = await _raw(web)
    file = part10(make(Rows=300, Columns=300, PixelData=bytes(180_000)))
    data = body(part10(make()), file)
    writer.write(
        f"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        f"Content-Type: {DICOM_TYPE}\r\n\r\n".encode()
        + data[:-1000]
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    while True:
        async with web.get("/dicomweb/instances") as response:
            if response.status == 200:
                assert len(await response.json(content_type=None)) == 1
                break
        await asyncio.sleep(0.01)
    assert len(await keys(rooms)) == 1


async def test_xml_for_those_who_ask_for_it(web: aiohttp.ClientSession) -> None:
    headers = {
        "Content-Type": DICOM_TYPE.replace(" ", ""),
        "Accept": "application/dicom+xml",
    }
    ds = make()
    async with web.post("/dicomweb/studies", data=body(part10(ds)), headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/dicom+xml"
        root = ElementTree.fromstring(await response.read())
    assert ds.SOPInstanceUID in "".join(root.itertext())


async def test_traversal_and_markup_in_uids_do_no_harm(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    evil = ["../../x", "/etc/x", "..\\x", "1.2/..", " ", "<b>", "x" * 60]
    files = []
    for uid in evil:
        ds = make(StudyInstanceUID=STUDY)
        file = part10(ds)
        files.append(
            file.replace(ds.SeriesInstanceUID.encode(), uid.ljust(64, "\0")[: len(ds.SeriesInstanceUID)].encode())
        )
    status, _ = await post(web, body(*files))
    assert status in (200, 202)
    for key in await keys(rooms):
        assert all(part not in ("", ".", "..") and part.isascii() for part in key.split("/"))
        assert key.count("/") == 4
    async with web.get("/dicomweb/series") as response:
        for row in await response.json(content_type=None):
            assert "<" not in row["00081190"]["Value"][0]
