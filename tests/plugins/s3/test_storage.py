"""What is peculiar to an object store: faults of the server and of the operator, parts, large objects."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import obstore
import pytest

from dicomnode.errors import ConfigError, NotFound, PluginError, Unavailable
from dicomnode_s3 import storage as module
from dicomnode_s3.place import Options, connect
from dicomnode_s3.storage import S3Storage
from tests.backends import s3, started
from tests.backends.postgres import free_port

KEY = "default/20240102/1.2.3/1.2.3.4/1.2.3.4.5-0.dcm"
MIB = 1024 * 1024
LARGE_MIB = int(os.environ.get("DICOMNODE_TEST_LARGE_MIB", "120"))


def made(options: dict[str, Any], folder: Path, **more: Any) -> S3Storage:
    return S3Storage(msgspec.convert(options | {"cache_bytes": 0, **more}, Options), folder)


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("storage", "s3")


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Server]:
    with s3.running(own=True) as server:
        yield server


@pytest.fixture
def of_server(server: s3.Server) -> Iterator[dict[str, Any]]:
    """Options for a server that a test may stop; afterwards it runs."""
    yield s3.options("storage", server)
    if server.process is None:
        server.start()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def keys(storage: S3Storage) -> list[str]:
    return sorted([found.key async for found in storage.list()])


async def test_wrong_keys_are_the_operators_matter(options: dict[str, Any], tmp_path: Path) -> None:
    for wrong in ({"secret_access_key": "s3cret-but-wrong"}, {"access_key_id": "nobody"}):
        with pytest.raises(ConfigError, match="refused") as caught:
            await made(options, tmp_path, **wrong).__aenter__()
        assert caught.value.path == "storage.options.access_key_id"
        assert "s3cret" not in str(caught.value) + repr(msgspec.convert(options | wrong, Options))


async def test_no_keys_at_all(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    # The machine's role would be asked for here; nobody answers.
    none = {"access_key_id": "", "secret_access_key": "", "settings": {"metadata_endpoint": "http://127.0.0.1:1"}}
    with pytest.raises(ConfigError, match="there are none"):
        await made(options, tmp_path, **none, retry_s=0.1).__aenter__()


async def test_keys_from_the_environment(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options.pop("access_key_id"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options.pop("secret_access_key"))
    async with made(options, tmp_path) as storage:
        await storage.ping()


async def test_a_bucket_that_is_not_there_is_told_or_made(
    options: dict[str, Any], of_server: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"storage\.options\.url: there is no such bucket .*create_bucket"):
        await made(options, tmp_path, url="s3://absent/x").__aenter__()
    for _ in range(2):
        async with made(of_server, tmp_path, url="s3://made-by-us/x", create_bucket=True) as storage:
            await storage.ping()
    async with made(of_server, tmp_path, url="s3://made-by-us") as storage:
        await storage.put("x/1", [b"1"])
        assert await keys(storage) == ["x/1"]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"url": ""}, "url"),
        ({"url": "/var/lib"}, "url"),
        ({"url": "http://bucket"}, "url"),
        ({"url": "s3://key:secret@bucket"}, "url"),
        ({"url": "s3://a"}, "url"),  # too short a name for the server
        ({"settings": {"nonsense": "1"}}, "settings"),
        ({"ca": "/nowhere/ca.pem"}, "ca"),
    ],
)
async def test_faults_of_the_configuration(
    options: dict[str, Any], tmp_path: Path, more: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await made(options, tmp_path, **more).__aenter__()
    assert caught.value.path == f"storage.options.{path}"
    assert "secret" not in str(caught.value)


def test_the_bucket_in_the_host_and_other_providers() -> None:
    host = connect(Options(url="s3://b1/x/y", endpoint="https://s3.example.org", addressing="host"))
    assert (host.prefix, host.config["endpoint"]) == ("x/y", "https://b1.s3.example.org")  # type: ignore[typeddict-item]
    azure = connect(Options(url="az://box/x", settings={"account_name": "a", "account_key": "a2V5"}))
    google = connect(Options(url="gs://box", settings={"skip_signature": "true"}))
    assert (type(azure).__name__, type(google).__name__) == ("AzureStore", "GCSStore")


async def test_an_absent_server(tmp_path: Path) -> None:
    nobody = {"url": "s3://dicomnode", "endpoint": f"http://127.0.0.1:{free_port()}", **s3.KEYS, "retry_s": 0.1}
    with pytest.raises(Unavailable, match="does not answer"):
        await made(nobody, tmp_path).__aenter__()


async def test_a_silent_server_holds_nobody_up_for_long(options: dict[str, Any], tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener, made(options, tmp_path) as storage:
        port = listener.sockets[0].getsockname()[1]
        slow = options | {"endpoint": f"http://127.0.0.1:{port}", "timeout_s": 0.1, "retry_s": 0.1, "cache_bytes": 0}
        storage._store = storage._sender._store = storage._reader._store = connect(msgspec.convert(slow, Options))
        async with asyncio.timeout(20):
            for call in (storage.ping(), storage.read(KEY), storage.size(KEY), storage.put(KEY, [b"x"])):
                with pytest.raises(Unavailable):
                    await call
            with pytest.raises(Unavailable):
                await storage.put(KEY, [b"x"], chunks(*[bytes(MIB)] * 10))
            with pytest.raises(Unavailable):
                await keys(storage)


async def test_a_bucket_that_goes_is_not_an_object_that_is_gone(options: dict[str, Any], tmp_path: Path) -> None:
    async with made(options, tmp_path) as storage:
        gone = msgspec.convert(options | {"url": "s3://absent/x"}, Options)
        storage._store = storage._sender._store = storage._reader._store = connect(gone)
        for call in (storage.read(KEY), storage.ping(), storage.put(KEY, [b"x"]), storage.delete([KEY])):
            with pytest.raises(Unavailable, match="bucket is gone"):
                await call


async def test_a_server_that_is_stopped_and_started(
    server: s3.Server, of_server: dict[str, Any], tmp_path: Path
) -> None:
    async with made(of_server, tmp_path, retry_s=0.2) as storage:
        await storage.put("a/1", [b"one"])
        server.stop()
        for call in (storage.read("a/1"), storage.put("a/2", [b"two"]), storage.size("a/1"), storage.delete(["a/1"])):
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable):
            await storage.ping()
        server.start()
        await storage.ping()
        assert await storage.read("a/1") == b"one"
        assert await keys(storage) == ["a/1"]


async def test_a_server_that_is_away_for_a_moment_is_waited_for(
    server: s3.Server, of_server: dict[str, Any], tmp_path: Path
) -> None:
    async with made(of_server, tmp_path, retry_s=20.0) as storage:
        await storage.put("a/1", [b"one"])
        server.stop()
        read = asyncio.create_task(storage.read("a/1"))
        put = asyncio.create_task(storage.put("a/2", [b"two"]))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.start)
        assert await read == b"one"
        assert await put == 3


async def test_a_server_that_dies_in_the_middle_of_parts(
    server: s3.Server, of_server: dict[str, Any], tmp_path: Path
) -> None:
    async def dying() -> AsyncIterator[bytes]:
        for number in range(40):
            if number == 25:
                server.stop()
            yield bytes(MIB)

    async with made(of_server, tmp_path, retry_s=0.2) as storage:
        with pytest.raises(Unavailable):
            await storage.put(KEY, [], dying())
        server.start()
        assert await storage.size(KEY) is None
        assert await storage.put(KEY, [], chunks(*[bytes(MIB)] * 10)) == 10 * MIB


async def test_parts_of_what_failed_are_dropped(server: s3.Server, of_server: dict[str, Any], tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(MIB)
        raise RuntimeError("the sender went away")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(MIB)
        sent.set()
        await asyncio.Event().wait()

    async with made(of_server, tmp_path) as storage:
        before = server.held()
        with pytest.raises(RuntimeError, match="went away"):
            await storage.put(KEY, [b"head"], broken())
        put = asyncio.create_task(storage.put(KEY, [b"head"], endless()))
        await sent.wait()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert server.held() == before
        assert await keys(storage) == []


async def test_a_put_that_is_cancelled_is_taken_back(options: dict[str, Any], tmp_path: Path) -> None:
    async with made(options, tmp_path) as storage:
        await storage.put("other", [b"x"])
        for number in range(8):
            put = asyncio.create_task(storage.put(f"a/{number}", [bytes(300_000)]))
            await asyncio.sleep(number * 0.003)
            put.cancel()
            await asyncio.wait([put])
            assert put.cancelled() or put.result() == 300_000
            assert await storage.size(f"a/{number}") == (None if put.cancelled() else 300_000)
        assert await storage.read("other") == b"x"


async def test_an_answer_that_was_lost(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = obstore.put_async

    async def repeated(*words: Any, **more: Any) -> Any:
        await real(*words, **more)
        return await real(*words, **more)

    async def without_answer(*words: Any, **more: Any) -> Any:
        await real(*words, **more)
        raise OSError("connection reset")

    async with made(options, tmp_path) as storage:
        monkeypatch.setattr(obstore, "put_async", repeated)
        assert await storage.put("a/1", [b"one"]) == 3
        with pytest.raises(Unavailable, match="in use"):
            await storage.put("a/1", [b"two"])
        monkeypatch.setattr(obstore, "put_async", without_answer)
        with pytest.raises(Unavailable):
            await storage.put("a/2", [b"two"])
        with pytest.raises(Unavailable):
            await storage.put("a/3", [], chunks(*[bytes(MIB)] * 10))
        assert await keys(storage) == ["a/1"]
        assert await storage.read("a/1") == b"one"


async def test_objects_just_below_and_above_a_part(options: dict[str, Any], tmp_path: Path) -> None:
    part = 5 * MIB
    async with made(options, tmp_path, part_bytes=part) as storage:
        for number, size in enumerate((part - 1, part, part + 1, 2 * part, 2 * part + 1)):
            body = bytes(range(256)) * (size // 256 + 1)
            body = body[:size]
            assert await storage.put(f"whole/{number}", [memoryview(body)]) == size
            assert await storage.put(f"stream/{number}", [], chunks(body[:1000], body[1000:])) == size
            for kind in ("whole", "stream"):
                assert await storage.size(f"{kind}/{number}") == size
                assert await storage.read(f"{kind}/{number}") == body
                assert await storage.read(f"{kind}/{number}", size - 10, 100) == body[-10:]


def _rss(peak: bool = False) -> int:
    found = re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.timeout(180)
async def test_a_large_object_is_never_in_memory(options: dict[str, Any], tmp_path: Path) -> None:
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def large() -> AsyncIterator[bytes]:
        for number in range(LARGE_MIB):
            block = number.to_bytes(4, "big") * (MIB // 4)
            sent.update(block)
            yield block

    async with made(options, tmp_path, cache_bytes=64 * MIB) as storage:
        await storage.ping()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _rss()
        assert await storage.put(KEY, [], large()) == LARGE_MIB * MIB
        for offset in range(0, LARGE_MIB * MIB, 4 * MIB):
            received.update(await storage.read(KEY, offset, 4 * MIB))
        assert received.digest() == sent.digest()
        assert _rss(peak=True) - before < 96 * MIB
        kept = sum(file.stat().st_size for file in (tmp_path / "s3-cache").rglob("*") if file.is_file())
        assert kept < 66 * MIB
        await storage.delete([KEY])


async def test_objects_of_others_are_passed_over(options: dict[str, Any], tmp_path: Path) -> None:
    async with made(options, tmp_path) as storage:
        await obstore.put_async(storage._store, "a b/c", b"x")
        await obstore.put_async(storage._store, "~tmp", b"x")
        await storage.put("a/1", [b"x"])
        assert await keys(storage) == ["a/1"]


async def test_more_than_a_page_is_listed_and_deleted(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 20)
    async with made(options, tmp_path) as storage:  # our server's pages are of 25
        await asyncio.gather(*(storage.put(f"a/{number}", [b"x"]) for number in range(60)))
        assert len(await keys(storage)) == 60
        await storage.delete([f"a/{number}" for number in range(65)] * 2)
        assert await keys(storage) == []


async def test_closing_waits_for_what_is_under_way(options: dict[str, Any], tmp_path: Path) -> None:
    async with made(options, tmp_path) as storage:
        await storage.put(KEY, [bytes(2 * MIB)])
        reads = [asyncio.create_task(storage.read(KEY)) for _ in range(4)]
        await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
    assert not storage._calls._under_way
    with pytest.raises((PluginError, NotFound, ConfigError)):
        await made(options, tmp_path, url="s3://absent").__aenter__()
