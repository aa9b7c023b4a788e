"""What was read stays on this machine: within a bound, over restarts, and never other than it was put."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import obstore
import pytest

from dicomnode.errors import ConfigError, NotFound, Unavailable
from dicomnode_s3.block_cache import BlockCache, Bounds
from dicomnode_s3.block_files import BlockId
from dicomnode_s3.place import Options
from dicomnode_s3.storage import S3Storage
from tests.backends import started

KEY = "default/20240102/1.2.3/1.2.3.4/1.2.3.4.5-0.dcm"
BLOCK = 100_000
BODY = random.Random(7).randbytes(1_050_000)  # ten blocks and a half


def made(options: dict[str, Any], folder: Path, **more: Any) -> S3Storage:
    return S3Storage(msgspec.convert({**options, "cache_block_bytes": BLOCK, **more}, Options), folder)


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("storage", "s3")


@pytest.fixture
async def storage(options: dict[str, Any], tmp_path: Path) -> AsyncIterator[S3Storage]:
    async with made(options, tmp_path) as storage:
        yield storage


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ranges that were asked of the server."""
    ranges: list[Any] = []
    real = obstore.get_async

    async def counted(store: Any, path: str, **more: Any) -> Any:
        ranges.append(more.get("options", {}).get("range"))
        return await real(store, path, **more)

    monkeypatch.setattr(obstore, "get_async", counted)
    return ranges


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "s3-cache").rglob("*-*-*") if path.is_file())


async def test_what_was_read_is_not_asked_for_again(storage: S3Storage, asked: list[Any]) -> None:
    await storage.put(KEY, [BODY])
    assert await storage.read(KEY, 10, 50) == BODY[10:60]
    assert asked == [(0, BLOCK)]
    assert await storage.read(KEY, 0, 32_768) == BODY[:32_768]
    assert await storage.read(KEY, 99_990, 20) == BODY[99_990:100_010]
    assert asked == [(0, BLOCK), (BLOCK, 2 * BLOCK)]
    assert await storage.read(KEY) == BODY
    assert len(asked) == 11
    assert await storage.read(KEY) == BODY
    assert len(asked) == 11


async def test_ranges_are_as_without_it(storage: S3Storage) -> None:
    chance = random.Random(3)
    sizes = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, len(BODY))
    for number, size in enumerate(sizes):
        await storage.put(f"a/{number}", [BODY[:size]])
    for _ in range(300):
        number = chance.randrange(len(sizes))
        offset = chance.choice((0, 1, BLOCK - 1, BLOCK, chance.randrange(1_200_000)))
        length = chance.choice((None, 0, 1, BLOCK, BLOCK + 1, chance.randrange(400_000)))
        end = sizes[number] if length is None else min(offset + length, sizes[number])
        assert await storage.read(f"a/{number}", offset, length) == BODY[offset:end], (number, offset, length)


async def test_many_who_ask_at_once_make_one_request(storage: S3Storage, asked: list[Any]) -> None:
    await storage.put(KEY, [BODY])
    found = await asyncio.gather(*(storage.read(KEY, 1000 * number, 900) for number in range(50)))
    assert found == [BODY[1000 * number : 1000 * number + 900] for number in range(50)]
    assert asked == [(0, BLOCK)]


async def test_who_gives_up_does_not_stop_the_others(storage: S3Storage, asked: list[Any]) -> None:
    await storage.put(KEY, [BODY])
    reads = [asyncio.create_task(storage.read(KEY, number, 9)) for number in range(10)]
    await asyncio.sleep(0)
    for read in reads[:5]:
        read.cancel()
    done = await asyncio.gather(*reads, return_exceptions=True)
    assert done[5:] == [BODY[number : number + 9] for number in range(5, 10)]
    assert asked == [(0, BLOCK)]


async def test_what_is_not_there(storage: S3Storage, asked: list[Any]) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await storage.read(KEY, 5, 10)
    assert len(asked) == 2
    await storage.put(KEY, [b"now it is"])
    assert await storage.read(KEY) == b"now it is"


async def test_it_survives_a_restart(options: dict[str, Any], tmp_path: Path, asked: list[Any]) -> None:
    async with made(options, tmp_path) as storage:
        await storage.put(KEY, [BODY])
        assert await storage.read(KEY) == BODY
    asked.clear()
    async with made(options, tmp_path) as storage:
        asked.clear()  # the question of the start
        assert await storage.read(KEY, 5, 100) == BODY[5:105]
        assert await storage.read(KEY) == BODY
        await storage.delete([KEY])
        assert files(tmp_path) == []
    assert asked == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "longer", "trailer", "gone"])
async def test_a_torn_file_is_never_served(
    options: dict[str, Any], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(options, tmp_path) as storage:
        await storage.put(KEY, [BODY[:50_000]])
        await storage.read(KEY)
    [file] = files(tmp_path)
    whole = file.read_bytes()
    torn = {
        "cut": whole[:-1],
        "flipped": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        "emptied": bytes(len(whole)),  # what a power cut leaves of a file that was not synced
        "longer": whole + b"x",
        "trailer": whole[:-1] + b"?",
        "gone": b"",
    }[damage]
    file.write_bytes(torn)
    async with made(options, tmp_path) as storage:
        if damage == "gone":
            file.unlink(missing_ok=True)
        for _ in range(2):
            assert await storage.read(KEY, 90, 20) == BODY[90:110]
            assert await storage.read(KEY) == BODY[:50_000]
        assert [file.stat().st_size for file in files(tmp_path)] == [len(whole)]


async def test_what_is_removed_behind_our_back_is_fetched_anew(storage: S3Storage, tmp_path: Path) -> None:
    await storage.put(KEY, [BODY])
    await storage.read(KEY)
    for file in files(tmp_path):
        file.unlink()
    assert await storage.read(KEY) == BODY
    for file in files(tmp_path):
        file.write_bytes(b"short")
    assert await storage.read(KEY) == BODY


async def test_what_was_used_longest_ago_goes(options: dict[str, Any], tmp_path: Path, asked: list[Any]) -> None:
    async with made(options, tmp_path, cache_bytes=5 * BLOCK) as storage:
        await storage.put(KEY, [BODY])
        for number in range(5):
            await storage.read(KEY, number * BLOCK, 10)
        await storage.read(KEY, 0, 10)
        await storage.read(KEY, 5 * BLOCK, 10)
        assert len(files(tmp_path)) == 5
        asked.clear()
        await storage.read(KEY, 0, 10)
        assert asked == []
        await storage.read(KEY, BLOCK, 10)
        assert asked == [(BLOCK, 2 * BLOCK)]
        assert await storage.read(KEY) == BODY
        assert len(files(tmp_path)) == 5
    async with made(options, tmp_path, cache_bytes=2 * BLOCK):
        assert len(files(tmp_path)) == 2
    async with made(options, tmp_path, cache_block_bytes=2 * BLOCK) as storage:
        assert files(tmp_path) == []
        assert await storage.read(KEY, 100, 5) == BODY[100:105]


async def test_small_objects_are_bounded_in_number(options: dict[str, Any], tmp_path: Path) -> None:
    async with made(options, tmp_path, cache_bytes=4 * 64 * 1024) as storage:
        for number in range(8):
            await storage.put(f"a/{number}", [b"small"])
            await storage.read(f"a/{number}")
        assert len(files(tmp_path)) == 4
        await storage.delete([f"a/{number}" for number in range(8)])
        assert files(tmp_path) == []
        assert (storage._cache._used, storage._cache._objects) == (0, {})  # type: ignore[union-attr]


async def test_what_was_deleted_while_it_came_is_not_kept(
    storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.put(KEY, [b"first"])
    fetched, go_on = asyncio.Event(), asyncio.Event()
    real = obstore.get_async

    async def slow(*words: Any, **more: Any) -> Any:
        found = await real(*words, **more)
        fetched.set()
        await go_on.wait()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "get_async", slow)
        read = asyncio.create_task(storage.read(KEY))
        await fetched.wait()
    await storage.delete([KEY])
    await storage.put(KEY, [b"second"])
    go_on.set()
    assert await read == b"first"
    assert await storage.read(KEY) == b"second"
    await storage.delete([KEY])
    assert files(tmp_path) == []
    with pytest.raises(NotFound):
        await storage.read(KEY)


async def test_an_error_is_told_to_all_who_wait_and_then_tried_again(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.put(KEY, [BODY])

    async def broken(*_: Any, **__: Any) -> Any:
        raise OSError("reset")

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "get_async", broken)
        done = await asyncio.gather(*(storage.read(KEY, 5, 5) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in done)
    assert await storage.read(KEY, 5, 5) == BODY[5:10]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a full cache disk was not tested: no right to mount a small one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_is_no_fault(
    options: dict[str, Any], small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dicomnode.s3")
    async with made(options, small_disk, cache_bytes=100 * BLOCK) as storage:
        await storage.put(KEY, [BODY * 2])
        for _ in range(3):
            assert await storage.read(KEY) == BODY * 2
        (small_disk / "of-others").write_bytes(bytes(1000))
        assert await storage.read(KEY, BLOCK, 30) == BODY[BLOCK : BLOCK + 30]
    assert len(caplog.records) <= 1


async def test_the_reserve_of_the_disk_is_left_to_others(options: dict[str, Any], small_disk: Path) -> None:
    async with made(options, small_disk, cache_bytes=100 * BLOCK, cache_reserve_bytes=4 * BLOCK) as storage:
        await storage.put(KEY, [BODY])
        assert await storage.read(KEY) == BODY
        assert await storage.read(KEY) == BODY
        kept = len(files(small_disk))
        assert 3 <= kept <= 6
        (small_disk / "of-others").write_bytes(bytes(3 * BLOCK))
        assert await storage.read(KEY) == BODY
        assert len(files(small_disk)) < kept


async def test_a_disk_that_fails_is_no_fault(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dicomnode.s3")
    await storage.put(KEY, [BODY])
    real = os.write

    def failing(fd: int, data: Any) -> int:
        if len(data) > 1000:
            raise OSError(5, "Input/output error")
        return real(fd, data)

    monkeypatch.setattr(os, "write", failing)
    for _ in range(3):
        assert await storage.read(KEY) == BODY
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["s3.cache_failed"]


async def test_a_folder_is_one_processs(options: dict[str, Any], storage: S3Storage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another process"):
        await made(options, tmp_path).__aenter__()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"storage\.options\.cache_dir"):
        await made(options, tmp_path, cache_dir=str(tmp_path / "file")).__aenter__()


async def test_without_a_cache_nothing_is_written(options: dict[str, Any], tmp_path: Path, asked: list[Any]) -> None:
    async with made(options, tmp_path, cache_bytes=0) as storage:
        asked.clear()
        await storage.put(KEY, [BODY])
        for _ in range(2):
            assert await storage.read(KEY, 7, 9) == BODY[7:16]
        assert asked == [(7, 16)] * 2
    assert not (tmp_path / "s3-cache").exists()


@pytest.mark.parametrize("parts", [[BODY], [BODY[:400], BODY[400:]], [b"", BODY[:BLOCK], b"", BODY[BLOCK:]]])
async def test_what_is_put_can_be_kept_at_once(
    options: dict[str, Any], tmp_path: Path, asked: list[Any], parts: list[bytes]
) -> None:
    async with made(options, tmp_path, write_through=True) as storage:
        asked.clear()
        await storage.put(KEY, parts)
        assert await storage.read(KEY) == BODY
        assert asked == []
        kept = files(tmp_path)
        with pytest.raises(Unavailable):
            await storage.put(KEY, [b"again"])
        assert files(tmp_path) == kept
        assert await storage.read(KEY) == BODY
    async with made(options, tmp_path) as storage:
        asked.clear()
        assert await storage.read(KEY) == BODY
        assert asked == []


async def test_a_put_that_fails_is_not_kept(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise OSError("reset")

    async with made(options, tmp_path, write_through=True) as storage:
        monkeypatch.setattr(obstore, "put_async", broken)
        with pytest.raises(Unavailable):
            await storage.put(KEY, [BODY])
        put = asyncio.create_task(storage.put(KEY, [BODY]))
        await asyncio.sleep(0)
        put.cancel()
        await asyncio.wait([put])
        assert files(tmp_path) == []


async def test_one_key_of_two_buckets_are_two_objects(tmp_path: Path) -> None:
    bounds = Bounds(10 * BLOCK, BLOCK, 0)
    one, other = BlockCache(tmp_path, "one", bounds), BlockCache(tmp_path, "other", bounds)
    assert one.digest(KEY) != other.digest(KEY)
    await one.open()
    block = BlockId(one.digest(KEY), 0)
    file = await one.keep(block, [b"data"], 4)
    assert file is not None
    assert await one.read(block, 0, 4) is None, "nothing names it yet"
    await one.add(block, file, 4)
    assert await one.read(block, 0, 4) == b"data"
    await one.close()
