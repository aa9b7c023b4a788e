"""What is peculiar to files: links, full disks, directories that others remove, open descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dicomnode.errors import ConfigError, Full, NotFound, Unavailable
from dicomnode.ports.offload import Quickness
from dicomnode_files.directories import Open, OpenFiles
from dicomnode_files.storage import FileStorage, Options

KEY = "default/20240102/1.2.3/1.2.3.4/1.2.3.4.5-0.dcm"


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FileStorage]:
    async with FileStorage(Options(reserve_bytes=0), tmp_path) as storage:
        yield storage


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_root_by_option_and_by_default(tmp_path: Path) -> None:
    async with FileStorage(Options(root=str(tmp_path / "x" / "y")), tmp_path) as storage:
        await storage.put("a/b", [b"1"])
        assert (tmp_path / "x" / "y" / "a" / "b").read_bytes() == b"1"
    async with FileStorage(Options(), tmp_path) as storage:
        assert storage.path("a/b") == tmp_path / "storage" / "a" / "b"


async def test_a_root_that_cannot_be_used_is_the_operators_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"storage\.options\.root"):
        async with FileStorage(Options(root=str(tmp_path / "file")), tmp_path):
            pass


async def test_no_link_is_followed(files: FileStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "storage"
    (root / "link").symlink_to(outside)
    (root / "name").symlink_to(outside / "made")
    (root / "open").symlink_to(outside / "secret")
    for key in ("link/a", "name"):
        with pytest.raises(Unavailable):
            await files.put(key, [b"x"])
    with pytest.raises(Unavailable):
        await files.read("open")
    assert await files.size("open") is None
    assert [found.key async for found in files.list()] == []
    assert everything(outside) == ["secret"]


async def test_deleting_prunes_empty_folders_only(files: FileStorage, tmp_path: Path) -> None:
    await files.put("a/b/c/1", [b"x"])
    await files.put("a/d/2", [b"x"])
    await files.delete(["a/b/c/1"])
    assert everything(tmp_path / "storage") == ["a", "a/d", "a/d/2"]
    await files.delete(["a/d/2"])
    assert everything(tmp_path / "storage") == []
    await files.put("a/b/c/1", [b"y"])
    assert await files.read("a/b/c/1") == b"y"


async def test_folders_removed_behind_our_back_are_made_again(files: FileStorage, tmp_path: Path) -> None:
    await files.put("a/b/c/1", [b"x"])
    for folder in ("a/b/c", "a/b", "a"):
        for path in (tmp_path / "storage" / folder).iterdir():
            path.unlink()
        (tmp_path / "storage" / folder).rmdir()
    await files.put("a/b/c/1", [b"again"])
    await files.put("a/b/c/2", [b"a"], chunks(b"b"))
    assert await files.read("a/b/c/2") == b"ab"


async def test_what_others_delete_is_not_read_from_what_we_hold_open(files: FileStorage) -> None:
    await files.put(KEY, [b"old"])
    assert await files.read(KEY) == b"old"
    files.path(KEY).unlink()
    with pytest.raises(NotFound):
        await files.read(KEY)
    await files.put(KEY, [b"new"])
    assert await files.read(KEY) == b"new"


async def test_list_passes_over_what_is_no_object(files: FileStorage, tmp_path: Path) -> None:
    await files.put("a/1", [b"x"])
    root = tmp_path / "storage"
    (root / "~tmp").write_text("x")
    (root / "with space").mkdir()
    (root / "with space" / "x").write_text("x")
    os.mkfifo(root / "a" / "fifo")
    assert [found.key async for found in files.list()] == ["a/1"]
    with pytest.raises(NotFound):
        await asyncio.wait_for(files.read("a"), 5)


async def test_more_than_the_kernel_takes_at_once(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [memoryview(parts[0])[:7]]))
    assert await files.put(KEY, [b"0123456789" * 3, b"", b"abcdefghij"]) == 40
    assert await files.read(KEY) == b"0123456789" * 3 + b"abcdefghij"


@pytest.mark.parametrize("call", ["writev", "fdatasync", "fsync"])
@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, Full), (errno.EDQUOT, Full), (errno.EFBIG, Full), (errno.EIO, Unavailable)],
)
async def test_a_failing_disk_leaves_nothing(
    files: FileStorage, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception]
) -> None:
    await files.put("default/20240102/1.2.3/1.2.3.4/other", [b"x"])

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(error):
            await files.put(KEY, [b"x"])
        with pytest.raises(error):
            await files.put(KEY, [b"x"], chunks(b"y"))
    assert [found.key async for found in files.list()] == ["default/20240102/1.2.3/1.2.3.4/other"]
    await files.put(KEY, [b"x"])


async def test_a_file_larger_than_the_limit_is_full(files: FileStorage) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(Full):
            await files.put(KEY, [b"x" * 200_000])
        with pytest.raises(Full):
            await files.put(KEY, [b"x"], chunks(b"x" * 99_000, b"x" * 99_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [found.key async for found in files.list()] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("a really full file system was not tested: no right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_really_full_disk(small_disk: Path) -> None:
    async with FileStorage(Options(root=str(small_disk), reserve_bytes=0), small_disk) as files:
        done = [await files.put(f"a/{number}", [b"x" * 500_000]) for number in range(5)]
        kept = len(done)
        with pytest.raises(Full):
            await files.put("a/whole", [b"x" * 2_000_000])
        with pytest.raises(Full):
            await files.put("a/stream", [b"x"], chunks(*[b"x" * 500_000] * 20))
        assert len([found async for found in files.list()]) == kept
        await files.delete(["a/0"])
        await files.put("a/0", [b"y" * 400_000])


async def test_the_reserve_is_kept_free(small_disk: Path) -> None:
    options = Options(root=str(small_disk), reserve_bytes=3 * 1024 * 1024)
    async with FileStorage(options, small_disk) as files:
        await files.ping()
        await files.put("a/1", [b"x" * 2_000_000])
        with pytest.raises(Full):
            await files.ping()
        with pytest.raises(Full, match="reserve"):
            await files.put("a/2", [b"x"])
        await files.delete(["a/1"])
        await files.put("a/2", [b"x"])


async def test_descriptors_are_bounded_and_closed(tmp_path: Path) -> None:
    before = open_descriptors()
    async with FileStorage(Options(fsync="never", reserve_bytes=0), tmp_path) as files:
        for number in range(700):
            await files.put(f"s/{number}/1", [b"x"])
            await files.read(f"s/{number}/1")
        assert open_descriptors() - before < 512 + 128 + 20
    assert open_descriptors() <= before + 2


def test_an_open_file_lives_as_long_as_its_last_user(tmp_path: Path) -> None:
    known = OpenFiles(1)
    one = Open(os.open(tmp_path, os.O_RDONLY))
    known.remember("a", one)
    known.remember("b", Open(os.open(tmp_path, os.O_RDONLY)))
    assert known.get("a") is None
    assert os.fstat(one.fd)
    number = one.fd
    del one
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    known.clear()


async def test_a_put_cancelled_while_it_waits_for_the_disk(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = os.fdatasync
    files._quickness = Quickness(0.0)  # in a thread, where there is something to wait for

    def slow(fd: int) -> None:
        loop.call_soon_threadsafe(reached.set)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    for rest in (None, chunks(b"y")):
        reached.clear()
        put = asyncio.create_task(files.put(KEY, [b"x"], rest))
        await reached.wait()
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        assert put.cancelled()
        assert [found.key async for found in files.list()] == []
