"""ClickHouse's own HTTP interface: a real server, of 2018, which is the newest that Debian has.

It knows nothing of our tables' types, but it compresses, refuses, runs out of memory and of disk as those of today do.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trustme

from dicomnode.errors import BadRequest, ConfigError, Full, Unavailable
from dicomnode_clickhouse.asking import Refused, Server, address
from dicomnode_clickhouse.warehouse import ClickHouseWarehouse, Options
from tests.backends import clickhouse
from tests.contracts.rows import HARD_TEXTS

FAR = Path("/nowhere")
TABLE = (
    "CREATE TABLE default.kept (name String, at DateTime, size Nullable(Int64)) "
    "ENGINE = ReplacingMergeTree(at) PARTITION BY toYYYYMM(at) ORDER BY name"
)
INTO = "INSERT INTO default.kept (name, at, size) FORMAT JSONEachRow"
BEST_EFFORT = {"date_time_input_format": "best_effort"}


@pytest.fixture(scope="module")
def running() -> Iterator[clickhouse.Server]:
    with clickhouse.of_2018() as server:
        yield server


@asynccontextmanager
async def asked(url: str, *, timeout_s: float = 20.0, ca: str = "") -> AsyncIterator[Server]:
    server = Server(address(url, ""), timeout_s=timeout_s, connect_timeout_s=2.0, ca=ca)
    await server.open()
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
async def server(running: clickhouse.Server) -> AsyncIterator[Server]:
    async with asked(running.url("default")) as opened:
        await opened.tell("DROP TABLE IF EXISTS default.kept")
        await opened.tell(TABLE)
        yield opened


def body(*rows: object) -> bytes:
    return gzip.compress(b"\n".join(map(msgspec.json.encode, rows)))


async def test_rows_go_in_compressed_and_come_out(server: Server) -> None:
    rows = [{"name": text, "at": "2026-01-02T03:04:05+00:00", "size": 2**53 + 1} for text in HARD_TEXTS]
    await server.insert(INTO, body(*rows), BEST_EFFORT)
    await server.insert(INTO, body(*rows, {"name": "null", "at": "2026-01-02T03:04:06Z", "size": None}), BEST_EFFORT)
    found = await server.ask("SELECT name, size FROM default.kept FINAL ORDER BY name")
    assert [name for name, _ in found] == sorted(HARD_TEXTS)
    assert dict(found)["null"] is None
    assert dict(found)["a"] == 2**53 + 1


async def test_values_are_quoted(server: Server) -> None:
    for hard in HARD_TEXTS:
        assert await server.ask("SELECT {hard} AS same", hard=hard) == [(hard,)]


async def test_a_failure_is_no_answer_also_when_it_began_well(server: Server) -> None:
    with pytest.raises(Unavailable, match="code 395"):
        await server.ask("SELECT throwIf(number = 150000) FROM (SELECT number FROM system.numbers LIMIT 200000)")
    with pytest.raises(Unavailable, match="code 60"):
        await server.ask("SELECT * FROM default.nothing")
    with pytest.raises(BadRequest, match="code 41"):
        await server.insert(INTO, body({"name": "a", "at": "CANARY", "size": 1}), BEST_EFFORT)
    assert await server.ask("SELECT count() FROM default.kept") == [(0,)]


async def test_no_memory_is_full(server: Server) -> None:
    with pytest.raises(Full, match="memory"):
        await server.ask("SELECT groupArray(number) FROM (SELECT * FROM system.numbers LIMIT 100000000)")


async def test_a_question_that_takes_too_long_is_given_up(running: clickhouse.Server) -> None:
    async with asked(running.url("default"), timeout_s=1.0) as server:
        with pytest.raises(Unavailable, match="took too long"):
            await server.ask("SELECT count() FROM system.numbers")


@pytest.mark.parametrize(("user", "key"), [("nobody", "x"), (clickhouse.USER, "wrong"), (clickhouse.USER, "")])
async def test_who_is_not_known_is_refused(running: clickhouse.Server, user: str, key: str) -> None:
    async with asked(running.url("default", user=user, key=key)) as server:
        with pytest.raises(Refused):
            await server.ask("SELECT 1")
    with pytest.raises(ConfigError, match="refused the user or the password"):
        await ClickHouseWarehouse(Options(url=running.url("d", user=user, key=key)), FAR).__aenter__()


async def test_a_server_that_is_too_old_is_named(running: clickhouse.Server) -> None:
    with pytest.raises(ConfigError, match=r"ClickHouse 18\.16\.1 \(23\.3 or newer is needed"):
        await ClickHouseWarehouse(Options(url=running.url("d")), FAR).__aenter__()


async def test_what_is_no_clickhouse_is_unavailable() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>")
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="no server of ClickHouse answers"):
            await ClickHouseWarehouse(Options(url=f"clickhouse+http://127.0.0.1:{port}/d"), FAR).__aenter__()


@asynccontextmanager
async def behind_tls(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """Have what listens at `port` behind TLS; yield the port of that."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while read := await reader.read(65536):
            writer.write(read)
            await writer.drain()
        writer.close()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copied(reader, inner_writer), copied(inner_reader, writer), return_exceptions=True)

    front = await asyncio.start_server(joined, "127.0.0.1", 0, ssl=context)
    try:
        yield front.sockets[0].getsockname()[1]
    finally:
        front.close()


async def test_tls(running: clickhouse.Server, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with behind_tls(running.port, authority) as port:
        url = running.url("default").replace("+http:", "+https:").replace(f":{running.port}/", f":{port}/")
        async with asked(url, ca=str(tmp_path / "ca.pem")) as server:
            assert await server.ask("SELECT 1 AS one") == [(1,)]
        async with asked(url) as server:
            with pytest.raises(Unavailable, match="Certificate"):
                await server.ask("SELECT 1")
    with pytest.raises(ConfigError, match=r"warehouse\.options\.ca"):
        await ClickHouseWarehouse(Options(url=url, ca=str(tmp_path / "none.pem")), FAR).__aenter__()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("a full disk under ClickHouse was not tested: no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


async def filled(server: Server) -> None:
    for number in range(100):
        rows = ({"name": os.urandom(4000).hex(), "at": 1, "size": number} for _ in range(100))
        await server.insert(INTO, body(*rows), {})


async def test_no_disk_is_full(small_disk: Path) -> None:
    with clickhouse.of_2018(small_disk) as running:
        async with asked(running.url("default")) as server:
            await server.tell(TABLE)
            with pytest.raises(Full, match="no room"):
                await filled(server)
