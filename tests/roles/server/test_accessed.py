"""What the access log tells of requests, through a real door."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode import metrics
from dicomnode.config import AuthTable, ServerTable
from dicomnode.errors import Unavailable
from dicomnode.model.instance import Stored
from dicomnode.model.messages import ACCESS_QUEUE, LOG_QUEUE, WadoAccessLog, decode_object_meta, encode
from dicomnode.model.warehouse import ACCESS
from dicomnode.ports.broker import Subscription
from dicomnode.roles.server.accessed import Seen, row
from dicomnode.roles.server.client_address import Proxies
from dicomnode.services.access_log import AccessLog
from dicomnode.services.record import RECORDED, Reading
from tests.corpus import make, part10
from tests.rooms import Rooms, open_door

FRAMES = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


class Watched:
    """A door, a client of it, and what the log tells."""

    def __init__(self, web: aiohttp.ClientSession, address: str, queue: Subscription) -> None:
        self.web = web
        self.address = address
        self._queue = queue

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, WadoAccessLog]:
        async with self.web.get(path, headers=headers) as response:
            body = await response.read()
        return response.status, body, await self.told()

    async def told(self) -> WadoAccessLog:
        (delivery,) = await asyncio.wait_for(self._queue.take(1), 20)
        await self._queue.ack((delivery,))
        found: WadoAccessLog = Reading(*RECORDED[ACCESS_QUEUE]).read(delivery.message.body)
        assert delivery.message.key == found.request_id
        return found

    async def silent(self) -> bool:
        try:
            await asyncio.wait_for(self._queue.take(1), 0.3)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def watching(rooms: Rooms, table: ServerTable | None = None) -> AsyncIterator[Watched]:
    queue = await rooms.broker.subscribe(ACCESS_QUEUE, "test")
    log = AccessLog(rooms.broker)
    async with (
        open_door(rooms, table or ServerTable(port=0), access_log=log) as server,
        aiohttp.ClientSession(server.address) as web,
    ):
        yield Watched(web, server.address, queue)


@pytest.fixture
async def watched(rooms: Rooms) -> AsyncIterator[Watched]:
    async with watching(rooms) as watched:
        yield watched


def instance(stored: Stored) -> str:
    study, series, sop = stored.study_uid, stored.series_uid, stored.sop_instance_uid
    return f"/dicomweb/studies/{study}/series/{series}/instances/{sop}"


async def test_a_frame_and_everything_about_it(rooms: Rooms, watched: Watched) -> None:
    stored = await rooms.take_in(make())
    before = datetime.now(UTC)
    status, body, told = await watched.get(f"{instance(stored)}/frames/1", **FRAMES, **{"User-Agent": "viewer/1"})
    assert status == 200
    assert (told.method, told.status, told.content_length) == ("GET", 200, len(body))
    assert told.route.endswith("/instances/{instance}/frames/{frames}")
    assert told.path == f"{instance(stored)}/frames/1"
    assert (told.resource_type, told.study_uid) == ("frames", stored.study_uid)
    assert (told.series_uid, told.sop_uid) == (stored.series_uid, stored.sop_instance_uid)
    assert (told.peer_addr, told.user_agent, told.user) == ("127.0.0.1", "viewer/1", "")
    assert (told.tenant_id, told.query_params) == ("default", "")
    assert 0 < told.duration_ms < 60_000
    at = datetime.fromisoformat(told.timestamp)
    assert before - timedelta(milliseconds=1) <= at <= datetime.now(UTC)
    assert told.request_id[14] == "7", "a UUID of version 7"
    assert json.loads(told.headers)["accept"] == FRAMES["Accept"]


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/dicomweb/studies?PatientName=Doe*", 200, ""),
        ("/dicomweb/studies/{study}", 200, "study"),
        ("/dicomweb/studies/{study}/series/{series}", 200, "series"),
        ("/dicomweb/studies/{study}/series/{series}/instances/{sop}", 200, "instance"),
        ("/dicomweb/studies/{study}/metadata", 200, "metadata"),
        ("/dicomweb/wado?requestType=WADO&studyUID={study}&objectUID={sop}", 200, "instance"),
        ("/dicomweb/studies/9.9.9", 404, "study"),
        ("/dicomweb/nothing", 404, ""),
        ("/dicomweb/studies?limit=x", 400, ""),
        ("/api/v1/worklist", 200, "worklist"),
        ("/api/v1/statistics", 404, "statistics"),
        ("/", 200, ""),
    ],
)
async def test_whatever_is_answered_is_told(path: str, status: int, kind: str, rooms: Rooms, watched: Watched) -> None:
    stored = await rooms.take_in(make())
    path = path.format(study=stored.study_uid, series=stored.series_uid, sop=stored.sop_instance_uid)
    got, body, told = await watched.get(path)
    assert (got, told.status, told.resource_type) == (status, status, kind)
    assert told.content_length == len(body)
    assert (told.path, told.query_params) == path.partition("?")[::2]
    assert told.sop_uid == (stored.sop_instance_uid if kind == "instance" else "")


async def test_other_methods(watched: Watched) -> None:
    for method, status in (("HEAD", 200), ("OPTIONS", 204), ("DELETE", 405), ("POST", 415)):
        path = "/" if method == "HEAD" else "/dicomweb/studies"
        async with watched.web.request(method, path) as response:
            assert response.status == status
            body = await response.read()
        told = await watched.told()
        assert (told.method, told.status, told.content_length) == (method, status, len(body))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_are_not_told(path: str, watched: Watched) -> None:
    async with watched.web.get(path) as response:
        assert response.status == 200
    assert await watched.silent()


async def test_those_who_are_refused_are_told(rooms: Rooms) -> None:
    async with watching(rooms, ServerTable(port=0, auth=AuthTable(("known",)))) as watched:
        for path in ("/dicomweb/studies", "/nothing", "/statistics"):
            status, _, told = await watched.get(path, Authorization="Bearer guessed", **{"X-Tenant": "other"})
            assert (status, told.status, told.tenant_id) == (401, 401, "default")
            assert "guessed" not in str(told)
        status, _, told = await watched.get("/dicomweb/studies", Authorization="Bearer known", **{"X-Tenant": "other"})
        assert (status, told.tenant_id) == (204, "other")
        assert "known" not in str(told)


async def test_a_backend_that_is_away_is_told(rooms: Rooms, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("database", "away")

    monkeypatch.setattr(rooms.database, "find", away)
    assert (await watched.get("/dicomweb/studies"))[2].status == 503


async def test_no_secret_comes_into_it(watched: Watched) -> None:
    headers = {
        "Authorization": "Bearer S3CRET",
        "Proxy-Authorization": "Basic S3CRET",
        "Cookie": "session=S3CRET",
        "X-Api-Key": "S3CRET",
        "X-Amz-Security-Token": "S3CRET",
        "X-Whatever-Comes-Next": "S3CRET",
        "Referer": "https://viewer.example/?token=S3CRET",
    }
    query = "access_token=S3CRET&limit=1&X-Amz-Signature=S3CRET&api_key=S3CRET;%74oken=S3CRET&PatientID=P1"
    _, _, told = await watched.get(f"/dicomweb/studies?{query}", **headers)
    assert "S3CRET" not in str(told)
    assert "PatientID=P1" in told.query_params
    assert "limit=1" in told.query_params


async def test_the_client_behind_trusted_proxies(rooms: Rooms) -> None:
    async with watching(rooms, ServerTable(port=0, trusted_proxies=("127.0.0.0/8",))) as watched:
        forwarded = {"X-Forwarded-For": "6.6.6.6, 198.51.100.7, 127.0.0.9"}
        assert (await watched.get("/", **forwarded))[2].peer_addr == "198.51.100.7"
        assert (await watched.get("/", Forwarded='for="[2001:db8::1]:99"'))[2].peer_addr == "2001:db8::1"
        assert (await watched.get("/"))[2].peer_addr == "127.0.0.1"
    async with watching(rooms) as watched:
        assert (await watched.get("/", **forwarded))[2].peer_addr == "127.0.0.1"


async def test_objects_are_noted_with_the_address_of_the_client_too(rooms: Rooms) -> None:
    received = await rooms.broker.subscribe(LOG_QUEUE, "test")
    async with watching(rooms, ServerTable(port=0, trusted_proxies=("127.0.0.1",))) as watched:
        headers = {"Content-Type": "application/dicom", "X-Forwarded-For": "198.51.100.7"}
        async with watched.web.post("/dicomweb/studies", data=part10(make()), headers=headers) as response:
            assert response.status == 200
        (delivery,) = await asyncio.wait_for(received.take(1), 20)
        assert decode_object_meta(delivery.message.body).source_ip == "198.51.100.7"
        assert (await watched.told()).peer_addr == "198.51.100.7"


async def test_an_answer_that_is_cut_is_told_with_what_went_out(rooms: Rooms, watched: Watched) -> None:
    stored = await rooms.take_in(make(PixelData=bytes(24 * 1024 * 1024), Rows=4096, Columns=3072))
    reader, writer = await asyncio.open_connection(*watched.address.removeprefix("http://").split(":"), limit=1024)
    writer.write(f"GET /dicomweb/studies/{stored.study_uid} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(1000)
    writer.transport.abort()
    told = await watched.told()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    assert told.status == 200
    assert 0 < told.content_length < stored.size


async def test_a_broker_that_is_away_keeps_no_request_waiting(
    rooms: Rooms, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise Unavailable("broker", "away")

    monkeypatch.setattr(rooms.broker, "publish", away)
    for _ in range(20):
        async with watched.web.get("/dicomweb/studies") as response:
            assert response.status == 204
    monkeypatch.undo()
    assert [(await watched.told()).status for _ in range(20)] == [204] * 20


async def test_what_it_tells_is_in_no_log_and_no_metric(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _, _, told = await watched.get("/dicomweb/studies?PatientName=CANARY", **{"User-Agent": "CANARY"})
    assert "CANARY" in told.query_params
    assert "CANARY" not in caplog.text
    assert b"CANARY" not in metrics.exposition()


async def test_paths_that_are_no_utf_8_and_long_ones(watched: Watched) -> None:
    host, port = watched.address.removeprefix("http://").split(":")
    for target in (b"/dicomweb/%ff%fe", b"/dicomweb/studies?x=" + b"y" * 20_000, b"/dicomweb/studies/" + b"1" * 500):
        _, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nUser-Agent: \xe4" + b"a" * 5000 + b"\r\n\r\n")
        told = await watched.told()
        writer.close()
        await writer.wait_closed()
        assert len(told.path) <= 8192
        assert len(told.query_params) <= 8192
        assert len(told.user_agent) == 1024
        assert told.study_uid == ""


_bytes = st.binary(max_size=60)
_texts = st.text(max_size=60)


@given(
    target=st.one_of(_texts, st.just("/dicomweb/wado?") | _texts.map(lambda text: "/dicomweb/wado?" + text)),
    template=st.sampled_from(["", "/dicomweb/wado", "/dicomweb/studies/{study}"]),
    params=st.dictionaries(st.sampled_from(["study", "series", "instance", "path"]), _texts),
    headers=st.lists(st.tuples(st.sampled_from([b"Accept", b"User-Agent", b"X-Forwarded-For"]), _bytes)).map(tuple),
    peer=st.sampled_from(["", "10.0.0.1", "::1"]),
)
def test_whatever_was_asked_there_is_a_row_that_fits(
    target: str,
    template: str,
    params: dict[str, str],
    headers: tuple[tuple[bytes, bytes], ...],
    peer: str,
) -> None:
    def wire(text: str) -> str:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")

    held = {name: wire(text) for name, text in params.items()}
    seen = Seen(10**18, 0.5, "GET", wire(target), template, held, "default", peer, headers, 200, 1)
    told = row(seen, Proxies(("10.0.0.0/8",)))
    read = Reading(*RECORDED[ACCESS_QUEUE]).read(encode(told))
    assert read == told
    assert isinstance(json.loads(told.headers), dict)
    for column in ACCESS.columns:
        value = getattr(read, column.name)
        assert not column.width or len(value) <= column.width, column.name
