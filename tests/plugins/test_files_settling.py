"""What happens when the disk fails to write what the file system had taken."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dicomnode.errors import Full, Unavailable
from dicomnode_files import settling
from dicomnode_files.storage import FileStorage, Options

MANY = [f"a/{number}" for number in range(30)]


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FileStorage]:
    async with FileStorage(Options(reserve_bytes=0), tmp_path) as storage:
        yield storage


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(settling, "_syncfs", lambda: fail)


@pytest.mark.parametrize("names", [MANY[:2], MANY])
@pytest.mark.parametrize(("number", "error"), [(errno.EIO, Unavailable), (errno.ENOSPC, Full)])
async def test_what_was_once_not_written_stays_in_doubt_until_it_is_put_anew(
    files: FileStorage, monkeypatch: pytest.MonkeyPatch, names: list[str], number: int, error: type[Exception]
) -> None:
    for name in [*names, "a/beside"]:
        await files.put_soon(name, [b"x"])
    with monkeypatch.context() as patch:
        failing(patch, number)
        with pytest.raises(error):
            await files.settle(names)
    with pytest.raises(Unavailable):
        await files.settle(names[:1])  # the disk would say yes now, and not mean it
    with pytest.raises(Unavailable):
        await files.settle(["a/beside"])  # it was there too when the disk failed
    await files.delete([*names, "a/beside"])
    for name in names:
        await files.put_soon(name, [b"y"])
    await files.settle(names)


@pytest.mark.parametrize("count", [3, 30])
async def test_settling_syncs(files: FileStorage, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    synced, real = list[str](), os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(settling, "_syncfs", lambda: None)  # where there is no such call
    for name in MANY[:count]:
        await files.put_soon(name, [b"x"])
    assert synced == []
    await files.settle(MANY[:count])
    assert sorted(synced) == sorted(str(files.path(name)) for name in MANY[:count])


async def test_many_are_settled_with_one_call(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    if settling._syncfs() is None:
        pytest.skip("no syncfs here: settling with one call was not tested")
    real, called = settling._syncfs(), list[int]()
    assert real is not None

    def sync(fd: int) -> None:
        called.append(fd)
        real(fd)

    monkeypatch.setattr(settling, "_syncfs", lambda: sync)
    for name in MANY:
        await files.put_soon(name, [b"x"])
    await files.settle(MANY)
    assert len(called) == 1


async def test_nothing_is_made_by_settling(files: FileStorage, tmp_path: Path) -> None:
    (tmp_path / "storage" / "link").symlink_to(tmp_path)
    await files.settle(["no/such/folder", "none"])
    assert sorted(os.listdir(tmp_path / "storage")) == ["link"]


async def test_without_syncs_nothing_is_gained_by_waiting(tmp_path: Path) -> None:
    async with FileStorage(Options(reserve_bytes=0, fsync="never"), tmp_path) as files:
        assert not files.defers
        await files.put_soon("a/1", [b"x"])
        await files.settle(["a/1"])


async def test_a_cancelled_put_leaves_nothing(files: FileStorage) -> None:
    put = asyncio.create_task(files.put_soon("a/1", [b"x"]))
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    assert [found.key async for found in files.list()] == []
    await files.put_soon("a/1", [b"y"])
    assert await files.read("a/1") == b"y"
