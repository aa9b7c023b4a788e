"""Long objects past the page cache: the same bytes, and where that does not work, through it."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dicomnode.errors import Full
from dicomnode_files.direct import LONG_BYTES, Ways
from dicomnode_files.storage import FileStorage, Options

MIB = 1024 * 1024
SIZES = [LONG_BYTES - 1, LONG_BYTES, LONG_BYTES + 1, 524_288 + 4095, MIB - 1, MIB, MIB + 1, 3 * MIB + 4096, 5 * MIB + 7]


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FileStorage]:
    async with FileStorage(Options(reserve_bytes=0, past_cache="always"), tmp_path) as storage:
        yield storage


@pytest.mark.parametrize("size", SIZES)
async def test_every_byte_arrives(files: FileStorage, size: int) -> None:
    content = os.urandom(size)
    assert await files.put("a/b", [content[:333], b"", memoryview(content)[333:]]) == size
    assert files.path("a/b").read_bytes() == content


async def test_a_shorter_object_after_a_longer_one_has_nothing_of_it(files: FileStorage) -> None:
    await files.put("a/long", [b"x" * MIB])
    await files.put("a/short", [b"y" * (LONG_BYTES + 5)])
    assert files.path("a/short").read_bytes() == b"y" * (LONG_BYTES + 5)


async def test_a_file_system_without_it_is_asked_once(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = os.open, list[str]()

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_DIRECT:
            asked.append(path)
            raise OSError(errno.EINVAL, "no such thing")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    for number in range(3):
        assert await files.put(f"a/{number}", [b"x" * MIB]) == MIB
        assert files.path(f"a/{number}").read_bytes() == b"x" * MIB
    assert len(asked) == 1


@pytest.mark.parametrize("short", [0, 1, 4096, 5000])
async def test_what_the_kernel_does_not_take_goes_through_the_cache(
    files: FileStorage, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    real, content, calls = os.write, os.urandom(MIB + 99), list[int]()

    def write(fd: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            return real(fd, data)
        if not short:
            raise OSError(errno.EINVAL, "not aligned")
        with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as unaligned:
            assert unaligned.write(data[:short]) == short
        os.lseek(fd, short, os.SEEK_SET)
        return short

    monkeypatch.setattr(os, "write", write)
    await files.put("a/b", [content])
    assert files.path("a/b").read_bytes() == content


async def test_a_full_disk_leaves_nothing(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(Full):
            await files.put("a/b", [b"x" * MIB])
    assert [found.key async for found in files.list()] == []
    await files.put("a/b", [b"x" * MIB])


def test_the_cheaper_way_is_taken_and_the_other_looked_at_again() -> None:
    ways = Ways("auto")
    cost = {False: 1.6, True: 0.5}
    taken = []
    for _ in range(640):
        taken.append(ways.direct())
        ways.took(taken[-1], cost[taken[-1]], 1)
    assert 610 <= sum(taken) < 640
    cost[False] = 0.6  # now the page cache costs hardly more, and what is in it is read sooner
    for _ in range(640):
        taken.append(ways.direct())
        ways.took(taken[-1], cost[taken[-1]], 1)
    assert sum(taken[-64:]) <= 2


def test_a_way_that_was_chosen_stays() -> None:
    assert all(Ways("always").direct() for _ in range(100))
    assert not any(Ways("never").direct() for _ in range(100))
    gone = Ways("always")
    gone.forbid()
    assert not gone.direct()
