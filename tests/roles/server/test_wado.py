from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import aiohttp
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from dicomnode.config import ServerLimitsTable, ServerTable
from dicomnode.model.instance import Stored
from tests.corpus import make
from tests.roles.server.parts import parse
from tests.rooms import Rooms, open_door

STUDY, SERIES = "1.2.10", "1.2.10.1"
URL = f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{SERIES}"


async def fill(rooms: Rooms, count: int = 3, **more: Any) -> list[Stored]:
    return [
        await rooms.take_in(
            make(
                StudyInstanceUID=STUDY,
                SeriesInstanceUID=SERIES,
                SOPInstanceUID=f"{SERIES}.{n}",
                InstanceNumber=n,
                **more,
            )
        )
        for n in range(1, count + 1)
    ]


async def fill_jpeg(rooms: Rooms, frames: list[bytes]) -> None:
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": f"{SERIES}.1"}
    ds = make(**uids, NumberOfFrames=len(frames), BitsAllocated=8, PixelData=encapsulate(frames))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    await rooms.take_in(ds, JPEGBaseline8Bit)


async def get(
    web: aiohttp.ClientSession, path: str, accept: str = "", status: int = 200, **more: str
) -> tuple[Mapping[str, str], bytes]:
    headers = {**more, **({"Accept": accept} if accept else {})}
    async with web.get(path, headers=headers) as response:
        content = await response.read()
        assert response.status == status, content
        return response.headers, content


@pytest.mark.parametrize("path", [f"/dicomweb/studies/{STUDY}", f"/dicomweb/studies/{STUDY}/series/{SERIES}"])
async def test_objects_come_as_they_are_kept(path: str, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    stored = await fill(rooms)
    headers, content = await get(web, path, 'multipart/related;type="application/dicom";transfer-syntax=*')
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert int(headers["Content-Length"]) == len(content)
    parts = parse(headers, content)
    assert [kind for kind, _ in parts] == ["application/dicom; transfer-syntax=1.2.840.10008.1.2.1"] * 3
    for one, (_, file) in zip(stored, parts, strict=True):
        assert pydicom.dcmread(BytesIO(file)).SOPInstanceUID == one.sop_instance_uid
        assert file == await rooms.storage.read(one.key)


async def test_one_object_in_one_part_or_alone(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    (stored,) = await fill(rooms, 1)
    kept = await rooms.storage.read(stored.key)
    headers, content = await get(web, f"{URL}.1")
    ((_, file),) = parse(headers, content)
    assert file == kept
    headers, content = await get(web, f"{URL}.1", "application/dicom")
    assert content == kept
    assert headers["Content-Type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert headers["Content-Disposition"] == f'attachment; filename="{SERIES}.1.dcm"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    headers, content = await get(
        web,
        f"/dicomweb/wado?requestType=WADO&studyUID={STUDY}&seriesUID={SERIES}&objectUID={SERIES}.1&contentType=application/dicom&transferSyntax=*",
    )
    assert content == kept


async def test_objects_longer_than_a_chunk(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    pixels = bytes(range(256)) * 12_500
    (stored,) = await fill(rooms, 1, Rows=1250, Columns=1280, PixelData=pixels)
    headers, content = await get(web, f"{URL}.1")
    assert int(headers["Content-Length"]) == len(content)
    assert parse(headers, content)[0][1] == await rooms.storage.read(stored.key)


@pytest.mark.parametrize("path", [f"{URL}.1", f"{URL}.1/frames/1", f"/dicomweb/studies/{STUDY}/metadata"])
async def test_head_has_the_headers_and_no_body(path: str, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    async with web.get(path) as got, web.head(path) as head:
        assert head.status == 200
        assert head.headers["Content-Type"].split("boundary")[0] == got.headers["Content-Type"].split("boundary")[0]
        if "metadata" not in path:
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
        assert await head.read() == b""
    await get(web, path)  # the connection is still in step


async def test_what_a_client_has_is_not_sent_again(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    for path in (f"{URL}.1", f"{URL}.1/frames/1"):
        headers, _ = await get(web, path)
        assert headers["Cache-Control"].startswith("private")
        _, content = await get(web, path, "", 304, **{"If-None-Match": headers["ETag"]})
        assert content == b""
        await get(web, path, "", 200, **{"If-None-Match": '"other"'})


@pytest.mark.parametrize(
    "path",
    [
        "/dicomweb/studies/9.9",
        f"/dicomweb/studies/{STUDY}/series/9.9",
        f"{URL}.9",
        f"{URL}.9/frames/1",
        f"{URL}.1/frames/2",
        f"{URL}.1/frames/1,2",
        f"{URL}.9/metadata",
        f"{URL}.1/bulkdata/00420011",
        f"/dicomweb/studies/9.9/series/{SERIES}/instances/{SERIES}.1",
        "/dicomweb/wado?requestType=WADO&objectUID=9.9",
        "/dicomweb/nothing",
        "/dicomweb",
    ],
)
async def test_what_is_not_there(path: str, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    headers, content = await get(web, path, status=404)
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(content)["status"] == 404


@pytest.mark.parametrize(
    "path",
    [
        f"{URL}.1/frames/0",
        f"{URL}.1/frames/x",
        f"{URL}.1/frames/1,,2",
        f"{URL}.1/frames/-1",
        f"{URL}.1/frames/{'1,' * 10_001}1",
        f"{URL}.1/bulkdata/x",
        f"{URL}.1/bulkdata/0008/..%2F..%2Fetc",
        "/dicomweb/studies/a%2Fb",
        "/dicomweb/studies/a%00b",
        f"/dicomweb/studies/{'1' * 200}",
        "/dicomweb/wado?requestType=WADO",
        "/dicomweb/wado?objectUID=1.2",
    ],
)
async def test_what_cannot_be_asked(path: str, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    _, content = await get(web, path, status=400)
    assert json.loads(content)["title"] == "Bad Request"


async def test_not_acceptable_says_what_is_stored(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    for path, accept in (
        (f"{URL}.1", "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50"),
        (f"{URL}.1", "text/html"),
        (f"{URL}.1/frames/1", "image/jpeg"),
    ):
        _, content = await get(web, path, accept, 406)
        assert "1.2.840.10008.1.2.1" in json.loads(content)["hint"]
    await get(web, f"{URL}.1/metadata", "text/html", 406)
    await get(web, f"/dicomweb/wado?requestType=WADO&objectUID={SERIES}.1&contentType=image/jpeg", "", 406)
    await get(web, f"/dicomweb/wado?requestType=WADO&objectUID={SERIES}.1&transferSyntax=1.2", "", 406)


async def test_native_frames(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    pixels = bytes(range(256)) + bytes(128)
    await fill(rooms, 1, NumberOfFrames=3, PixelData=pixels)
    headers, content = await get(
        web, f"{URL}.1/frames/2", "multipart/related; type=application/octet-stream; transfer-syntax=*"
    )
    kind = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    assert content.startswith(b"--")  # Cornerstone knows no preamble
    assert b"\r\nContent-Type: " in content
    assert parse(headers, content) == [(kind, pixels[128:256])]
    assert int(headers["Content-Length"]) == len(content)
    headers, content = await get(web, f"{URL}.1/frames/3,1")
    assert [data for _, data in parse(headers, content)] == [pixels[256:], pixels[:128]]
    headers, content = await get(web, f"{URL}.1/frames/1", "application/octet-stream")
    assert (headers["Content-Type"], content) == (kind, pixels[:128])


async def test_the_instance_for_a_viewer_that_means_its_pixels(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    headers, content = await get(
        web, f"{URL}.1", 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
    )
    assert [data for _, data in parse(headers, content)] == [bytes(range(128))]


async def test_encapsulated_frames(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    frames = [b"\xff\xd8\xff" + bytes([n]) * 9 for n in range(3)]
    await fill_jpeg(rooms, frames)
    headers, content = await get(web, f"{URL}.1/frames/2", 'multipart/related; type="image/jpeg"')
    kind = "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"
    assert headers["Content-Type"].startswith('multipart/related; type="image/jpeg"')
    assert parse(headers, content) == [(kind, frames[1])]
    headers, content = await get(web, f"{URL}.1/frames/3?accept=image/jpeg")
    assert (headers["Content-Type"], content) == (kind, frames[2])
    headers, content = await get(web, f"{URL}.1/bulkdata/7FE00010")
    assert [data for _, data in parse(headers, content)] == frames


async def test_big_endian_words_come_little_endian(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": f"{SERIES}.1"}
    ds = make(**uids)
    ds["PixelData"].VR = "OW"
    await rooms.take_in(ds, ExplicitVRBigEndian)
    headers, content = await get(web, f"{URL}.1/frames/1")
    kind, frame = parse(headers, content)[0]
    assert kind.endswith("transfer-syntax=1.2.840.10008.1.2.1")
    raw = bytes(range(128))
    assert frame == b"".join(raw[n : n + 2][::-1] for n in range(0, 128, 2))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
async def test_metadata_and_the_bulk_data_they_refer_to(syntax: UID, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    document, nested = bytes(range(256)) * 20, bytes(range(255, -1, -1)) * 8
    item = pydicom.Dataset()
    item.EncapsulatedDocument = nested
    ds = make(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=f"{SERIES}.1")
    ds.EncapsulatedDocument, ds.RequestAttributesSequence = document, [pydicom.Dataset(), item]
    ds["PixelData"].VR = "OW"
    await rooms.take_in(ds, syntax)
    _, content = await get(web, f"{URL}.1/metadata")
    (found,) = json.loads(content)
    assert found["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    uri = found["00420011"]["BulkDataURI"]
    assert uri == f"{web._base_url}{URL}.1/bulkdata/00420011"
    headers, content = await get(web, uri, 'multipart/related; type="application/octet-stream"')
    assert parse(headers, content) == [("application/octet-stream", document)]
    headers, content = await get(web, uri, "application/octet-stream")
    assert (headers["Content-Length"], content) == (str(len(document)), document)
    inner = found["00400275"]["Value"][1]["00420011"]["BulkDataURI"]
    assert inner.endswith("/bulkdata/00400275/2/00420011")
    assert (await get(web, inner, "application/octet-stream"))[1] == nested
    assert found["7FE00010"]["BulkDataURI"].endswith("/bulkdata/7FE00010")
    headers, content = await get(web, found["7FE00010"]["BulkDataURI"])
    assert len(parse(headers, content)[0][1]) == 128


async def test_metadata_of_a_study_in_order(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 120)
    for path in (f"/dicomweb/studies/{STUDY}/metadata", f"/dicomweb/studies/{STUDY}/series/{SERIES}/metadata"):
        for _ in range(2):  # the second time from the cache
            headers, content = await get(web, path, "application/dicom+json")
            assert headers["Content-Type"] == "application/dicom+json"
            assert [one["00200013"]["Value"][0] for one in json.loads(content)] == list(range(1, 121))


async def test_a_file_that_lost_its_end_is_never_a_clean_end(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    (stored,) = await fill(rooms, 1, Rows=1250, Columns=1280, PixelData=bytes(3_200_000))
    location = await rooms.retrieve.locate_one("default", STUDY, SERIES, f"{SERIES}.1")
    kept = await rooms.storage.read(stored.key)
    await rooms.storage.delete((stored.key,))
    await rooms.storage.put(stored.key, (kept[:2_000_000],))
    assert location.size == len(kept)
    with pytest.raises(aiohttp.ClientError):
        await get(web, f"{URL}.1", "application/dicom")
    assert (await get(web, "/livez"))[1]


async def test_objects_of_another_tenant_are_not_there(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms, 1)
    await get(web, f"{URL}.1", "", 200, **{"x-tenant": "default"})
    for path in (
        f"{URL}.1",
        f"{URL}.1/frames/1",
        f"{URL}.1/metadata",
        f"/dicomweb/studies/{STUDY}",
        f"{URL}.1/bulkdata/7FE00010",
    ):
        await get(web, path, "", 404, **{"x-tenant": "other"})


class TestPublicUrl:
    @pytest.fixture
    def table(self) -> ServerTable:
        return ServerTable(port=0, public_url="https://pacs.example/node/")

    async def test_uris_are_below_it(self, rooms: Rooms, web: aiohttp.ClientSession) -> None:
        await fill(rooms, 1)
        _, content = await get(web, f"{URL}.1/metadata")
        uri = json.loads(content)[0]["7FE00010"]["BulkDataURI"]
        assert uri == f"https://pacs.example/node{URL}.1/bulkdata/7FE00010"


@pytest.mark.parametrize(
    ("request_line", "more", "stays"),
    [("HTTP/1.1", "", True), ("HTTP/1.1", "Connection: close\r\n", False), ("HTTP/1.0", "", False)],
)
async def test_frames_on_connections_of_every_kind(
    request_line: str, more: str, stays: bool, rooms: Rooms, web: aiohttp.ClientSession
) -> None:
    await fill(rooms, 1)
    assert web._base_url is not None
    reader, writer = await asyncio.open_connection(web._base_url.host, web._base_url.port)
    request = (
        f"GET {URL}.1/frames/1 {request_line}\r\nHost: x\r\nAccept: application/octet-stream\r\n{more}\r\n".encode()
    )
    for _ in range(2 if stays else 1):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.")
        assert b" 200 OK\r\n" in head
        assert b"\r\nContent-Length: 128\r\n" in head
        assert b"\r\nDate: " in head
        assert await reader.readexactly(128) == bytes(range(128))
    if not stays:
        assert await reader.read() == b""
    writer.close()


async def test_a_client_that_does_not_read_its_frames_is_hung_up_on(rooms: Rooms) -> None:
    await fill(rooms, 1, Rows=4000, Columns=4000, PixelData=bytes(32_000_000))
    table = ServerTable(port=0, limits=ServerLimitsTable(idle_s=0.3))
    async with open_door(rooms, table) as server:
        port = int(server.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(f"GET {URL}.1/frames/1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.sleep(1.0)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1_000_000):
                received += len(piece)
        assert received < 32_000_000
        writer.close()
