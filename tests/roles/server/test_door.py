from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dicomnode.config import AuthTable, CorsTable, ServerLimitsTable, ServerTable
from dicomnode.errors import ConfigError, Unavailable
from dicomnode_memory.off import OffCache
from tests.corpus import make
from tests.rooms import Rooms, open_door, open_rooms


async def get(web: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
    async with web.get(path, headers=headers) as response:
        return response.status, await response.read(), response


async def test_the_page_and_the_probes(web: aiohttp.ClientSession) -> None:
    status, content, response = await get(web, "/")
    assert status == 200
    assert b"/dicomweb" in content
    assert response.headers["Content-Security-Policy"] == "default-src 'none'"
    assert (await get(web, "/livez"))[0] == 200
    status, content, _ = await get(web, "/readyz")
    assert status == 200
    assert json.loads(content)["backends"].keys() == {"storage", "broker", "database", "cache"}
    status, content, _ = await get(web, "/metrics")
    assert status == 200
    assert b'dicomnode_http_requests_total{method="GET",route="/livez",status="200"}' in content
    assert b'dicomnode_backend_up{port="storage"} 1.0' in content


async def test_a_backend_that_is_full_is_named(tmp_path: Path) -> None:
    uses = {"storage": "memory", "broker": "memory", "database": "memory", "cache": "memory"}
    async with open_rooms(tmp_path, uses) as rooms:
        storage: Any = rooms.storage
        storage._capacity = 0
        async with open_door(rooms) as server, aiohttp.ClientSession(server.address) as web:
            status, content, _ = await get(web, "/readyz")
    if status == 200:
        pytest.skip("the memory storage does not tell by its ping that it is full")
    told = json.loads(content)
    assert status == 503
    assert told["backends"]["storage"]["up"] is False
    assert told["backends"]["broker"]["up"] is True


async def test_methods_that_a_resource_does_not_know(web: aiohttp.ClientSession) -> None:
    async with web.delete("/dicomweb/studies/1.2") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    async with web.options("/dicomweb/studies") as response:
        assert (response.status, response.headers["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_markup_in_a_path_or_a_query_is_never_given_back(web: aiohttp.ClientSession) -> None:
    for path in ("/<script>", "/dicomweb/studies/<img src=x>", "/dicomweb/studies?<b>=1", "/dicomweb/%3Cb%3E"):
        status, content, response = await get(web, path)
        assert status in (400, 404)
        assert b"<" not in content
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_error_that_nobody_foresaw_tells_nothing(
    rooms: Rooms, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("Doe^Jane is at /secret/path")

    monkeypatch.setattr(rooms.database, "find", broken)
    status, content, _ = await get(web, "/dicomweb/studies")
    assert status == 500
    assert b"Doe" not in content
    assert b"Traceback" not in content
    assert (await get(web, "/livez"))[0] == 200


async def test_queries_never_come_into_the_log(
    rooms: Rooms, web: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await rooms.take_in(make(PatientName="Canary^Bird"))
    for path in ("/dicomweb/studies?PatientName=Canary*", "/dicomweb/studies?Canary=1", "/Canary"):
        await get(web, path)
    assert "Canary" not in caplog.text


class TestTokens:
    @pytest.fixture
    def table(self) -> ServerTable:
        return ServerTable(port=0, auth=AuthTable(("first", "sécond")), cors=CorsTable(("https://viewer.example",)))

    @pytest.mark.parametrize("value", ["", "Bearer", "Bearer wrong", "Basic first", "Bearer firs", "bearer first x"])
    async def test_nobody_comes_in_without_one(self, value: str, web: aiohttp.ClientSession) -> None:
        headers = {"Authorization": value} if value else {}
        paths = ("/", "/readyz", "/metrics", "/dicomweb/studies", "/dicomweb/studies/1.2", "/nothing", "/dicomweb/wado")
        for path in paths:
            status, content, response = await get(web, path, **headers)
            assert status == 401, path
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert json.loads(content)["title"] == "Unauthorized"
        async with web.post("/dicomweb/studies", headers=headers) as response:
            assert response.status == 401
        async with web.delete("/dicomweb/studies", headers=headers) as response:
            assert response.status == 401

    @pytest.mark.parametrize("value", ["Bearer first", "bearer  first", "Bearer sécond"])
    async def test_any_of_them_opens(self, value: str, web: aiohttp.ClientSession) -> None:
        assert (await get(web, "/dicomweb/studies", Authorization=value))[0] == 204

    async def test_probes_and_preflights_need_none(self, web: aiohttp.ClientSession) -> None:
        assert (await get(web, "/livez"))[0] == 200
        headers = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
        async with web.options("/dicomweb/studies", headers=headers) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://viewer.example"
            assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
            assert "Range" in response.headers["Access-Control-Allow-Headers"]

    async def test_pages_of_other_origins_may_not_read(self, web: aiohttp.ClientSession) -> None:
        for origin, allowed in (("https://viewer.example", True), ("https://evil.example", False)):
            _, _, response = await get(web, "/dicomweb/studies", Origin=origin, Authorization="Bearer first")
            assert ("Access-Control-Allow-Origin" in response.headers) is allowed
            assert response.headers["Vary"] == "Origin"

    async def test_an_error_can_be_read_by_the_page_too(self, web: aiohttp.ClientSession) -> None:
        _, _, response = await get(web, "/dicomweb/studies", Origin="https://viewer.example")
        assert response.headers["Access-Control-Allow-Origin"] == "https://viewer.example"
        assert "Content-Length" in response.headers["Access-Control-Expose-Headers"]


class TestAnyOrigin:
    @pytest.fixture
    def table(self) -> ServerTable:
        return ServerTable(port=0, cors=CorsTable(("*",)))

    async def test_any_page_may_read(self, web: aiohttp.ClientSession) -> None:
        _, _, response = await get(web, "/dicomweb/studies", Origin="https://x.example")
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_port_in_use_is_told(rooms: Rooms) -> None:
    async with open_door(rooms) as first:
        port = int(first.address.rpartition(":")[2])
        with pytest.raises(ConfigError, match=r"server\.port.*in use"):
            async with open_door(rooms, ServerTable(port=port)):
                pass


async def test_a_host_that_is_not_here_is_told(rooms: Rooms) -> None:
    with pytest.raises(ConfigError, match=r"server\.host"):
        async with open_door(rooms, ServerTable(port=0, host="192.0.2.1", accept_anyone=True)):
            pass


async def test_a_connection_that_asks_nothing_is_closed(rooms: Rooms) -> None:
    async with open_door(rooms) as server:
        port = int(server.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost:")
        async with aiohttp.ClientSession(server.address) as web:
            assert (await get(web, "/livez"))[0] == 200
            server.hang_up(time.monotonic() + 1)
            assert await _rest(reader) == b""
            assert (await get(web, "/livez"))[0] == 200  # who has asked before may stay
        writer.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Return what still comes before the connection ends, in whichever way it ends."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1_000_000):
            pieces.append(piece)
    return b"".join(pieces)


class TestAClientThatDoesNotRead:
    @pytest.fixture
    def table(self) -> ServerTable:
        return ServerTable(port=0, limits=ServerLimitsTable(idle_s=0.3))

    async def test_is_hung_up_on(self, rooms: Rooms, web: aiohttp.ClientSession) -> None:
        pixels = bytes(8_000_000)
        uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}
        for number in range(4):
            await rooms.take_in(make(**uids, InstanceNumber=number, Rows=2000, Columns=2000, PixelData=pixels))
        assert web._base_url is not None
        reader, writer = await asyncio.open_connection(web._base_url.host, web._base_url.port, limit=1024)
        writer.write(b"GET /dicomweb/studies/1.2 HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.0)
        assert len(await _rest(reader)) < 32_000_000
        writer.close()


@pytest.fixture
async def raw(web: aiohttp.ClientSession) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    assert web._base_url is not None
    assert web._base_url.host is not None
    reader, writer = await asyncio.open_connection(web._base_url.host, web._base_url.port)
    yield reader, writer
    writer.close()


@pytest.mark.parametrize(
    "request_head",
    [
        b"\x01\x00\x00\x00\x00\xcd\x00\x01\x00\x00ANY-SCP         \r\n\r\n",  # DICOM on the wrong port
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /dicomweb/studies HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_refused(request_head: bytes, raw: Any, web: aiohttp.ClientSession) -> None:
    reader, writer = raw
    writer.write(request_head)
    answer = await reader.read(100)
    assert answer == b"" or b" 400 " in answer or b" 41" in answer
    assert (await get(web, "/livez"))[0] == 200


class LostCache(OffCache):
    """A cache whose server is away."""

    async def ping(self) -> None:
        raise Unavailable("lost", "nobody there")


async def test_without_its_cache_a_node_is_degraded_and_not_down(tmp_path: Path) -> None:
    uses = {"storage": "memory", "broker": "memory", "database": "memory", "cache": f"{__name__}:LostCache"}
    async with (
        open_rooms(tmp_path, uses) as rooms,
        open_door(rooms) as server,
        aiohttp.ClientSession(server.address) as web,
    ):
        status, content, _ = await get(web, "/readyz")
    told = json.loads(content)
    assert (status, told["status"]) == (200, "degraded")
    assert told["backends"]["cache"] == {"up": False, "problem": "lost: nobody there"}
