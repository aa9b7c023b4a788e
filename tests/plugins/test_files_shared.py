"""A folder that several machines use, on a file system that is elsewhere.

The machines are mounts of one folder with bindfs: each has, as with NFS and SMB, its own memory of names and sizes,
which is right again after a while. There is no NFS in the kernels of test machines; what it alone does is played.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import ConfigError, NotFound, Unavailable
from dicomnode_files import reading
from dicomnode_files import storage as module
from dicomnode_files.directories import Open
from dicomnode_files.mark import NAME as MARK
from dicomnode_files.mounts import is_elsewhere
from dicomnode_files.storage import FileStorage, Options

KEY = "default/20240102/1.2.3/1.2.3.4/1.2.3.4.5-0.dcm"
LATE_S = 0.3
ROOT = Path(__file__).parent.parent.parent


class Machine:
    """One machine's view of the folder."""

    def __init__(self, back: Path, folder: Path) -> None:
        self.back = back
        self.root = folder / "mounted"
        self.data_dir = folder / "data"
        self.root.mkdir(parents=True)
        self.data_dir.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        late = f"negative_timeout={LATE_S},entry_timeout={LATE_S},attr_timeout={LATE_S}"
        self.process = subprocess.Popen(["bindfs", "-f", "-o", late, str(self.back), str(self.root)])
        ends = time.monotonic() + 10
        while not os.path.ismount(self.root):
            if self.process.poll() is not None or time.monotonic() > ends:
                self.process.kill()
                self.process.wait()
                pytest.skip("shared folders were not tested: FUSE is not allowed here")
            time.sleep(0.01)

    def unmount(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(10)

    def storage(self, **more: Any) -> FileStorage:
        return FileStorage(Options(**{"root": str(self.root), "reserve_bytes": 0, **more}), self.data_dir)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LATE_S", (0.0, 0.1, 1.5 * LATE_S))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    if os.geteuid() != 0 or shutil.which("bindfs") is None:
        pytest.skip("shared folders were not tested: they need root and bindfs (scripts/peers installs it)")
    (tmp_path / "back").mkdir()
    machines = [Machine(tmp_path / "back", tmp_path / name) for name in ("a", "b")]
    try:
        for machine in machines:
            machine.mount()
        yield machines
    finally:
        for machine in machines:
            machine.unmount()


@pytest.fixture
async def two(machines: list[Machine]) -> AsyncIterator[list[FileStorage]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(machine.storage()) for machine in machines]


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[FileStorage]:
    """A storage that takes its folder for one that is elsewhere, where it is not."""
    async with FileStorage(Options(reserve_bytes=0, shared="yes"), tmp_path) as storage:
        yield storage


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def test_the_kind_of_the_file_system_is_known(machines: list[Machine], tmp_path: Path) -> None:
    for path, elsewhere in ((machines[0].root, True), (tmp_path, False), (Path("/proc"), False)):
        assert is_elsewhere(Open(os.open(path, os.O_RDONLY)).fd) is elsewhere
    assert not is_elsewhere(-1)


async def test_what_one_has_written_the_other_reads_at_once(two: list[FileStorage]) -> None:
    a, b = two
    assert not b.defers
    for number in range(3):
        key = f"t/{number}/study/1.dcm"
        assert await b.size(key) is None  # from now on this machine believes for a while that there is none
        assert await a.put(key, [b"written ", b"there"]) == 13
        assert await b.read(key) == b"written there"
        assert await b.size(key) == 13
    assert sorted([found.key async for found in b.list()]) == [f"t/{number}/study/1.dcm" for number in range(3)]


async def test_folders_that_the_other_makes_and_removes(two: list[FileStorage]) -> None:
    a, b = two
    for number in range(8):
        await a.put(f"t/study/{number}", [b"x"])
        await b.put(f"t/study/{number}-b", [b"y"])
        await a.delete([f"t/study/{number}"])
        await b.delete([f"t/study/{number}-b"])  # which removes the folder that `a` holds open
        await a.put(f"t/study/{number}-again", [b"z"], chunks(b"!"))
        assert await b.read(f"t/study/{number}-again") == b"z!"
        await b.delete([f"t/study/{number}-again"])
    assert [found.key async for found in a.list()] == []


async def test_what_the_other_deletes_is_gone_soon(two: list[FileStorage]) -> None:
    a, b = two
    await a.put(KEY, [b"x" * 1000])
    assert len(await b.read(KEY)) == 1000
    await a.delete([KEY])

    async def read_on() -> None:
        async with asyncio.timeout(10):
            while True:
                assert await b.read(KEY) == b"x" * 1000
                await asyncio.sleep(0.05)

    with pytest.raises(NotFound):
        await read_on()


async def test_a_key_is_one_machines(two: list[FileStorage]) -> None:
    done = await asyncio.gather(
        *(two[number % 2].put(KEY, [bytes([number]) * 300_000]) for number in range(8)), return_exceptions=True
    )
    assert [result for result in done if not isinstance(result, BaseException)] == [300_000]
    assert all(isinstance(result, Unavailable) for result in done if result != 300_000)
    await asyncio.sleep(1.5 * LATE_S)  # who was refused has seen the file before it was whole
    for storage in two:
        assert len(set(await storage.read(KEY))) == 1


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted twice", "one folder"])
def test_processes_that_come_and_go_in_the_same_folders(
    mounted: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    machines = request.getfixturevalue("machines") if mounted else ()
    roots = [machine.root for machine in machines] or [tmp_path / "root"] * 2
    count = 20 if mounted else 60
    beside = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.plugins.files_beside", str(root), str(tmp_path / name), name, str(count)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        for root, name in zip(roots, "xy", strict=True)
    ]
    for process in beside:
        _, told = process.communicate(timeout=50)
        assert process.returncode == 0, told.decode()
    left = sorted(path.name for path in roots[0].rglob("*.dcm"))
    assert left == sorted(f"{name}-{w}-{n}.dcm" for name in "xy" for w in range(4) for n in range(0, count, 5))


async def test_a_server_that_is_away_stops_nobody_else(
    machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    async with machines[0].storage() as storage:
        await storage.put(KEY, [b"kept"])
        await storage.ping()
        process = machines[0].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            late = [asyncio.create_task(storage.read(KEY, number, 1)) for number in range(3)]
            late.append(asyncio.create_task(storage.read("no/such")))
            began = time.monotonic()
            for _ in range(3):
                with pytest.raises(Unavailable, match="does not answer"):
                    await storage.ping()
            assert time.monotonic() - began < 5
            assert not any(task.done() for task in late)
        finally:
            process.send_signal(signal.SIGCONT)
        *found, missing = await asyncio.gather(*late, return_exceptions=True)
        assert found == [b"k", b"e", b"p"]
        assert isinstance(missing, NotFound)
        await storage.ping()


async def test_nobody_writes_into_an_empty_mount_point(machines: list[Machine]) -> None:
    a, b = machines
    async with a.storage() as storage:
        await storage.put(KEY, [b"x"])
    a.unmount()
    with pytest.raises(Unavailable, match="not marked as a storage: mount what belongs there"):
        await a.storage().__aenter__()
    assert list(a.root.iterdir()) == []
    a.root.rmdir()
    with pytest.raises(Unavailable, match="not marked"):
        await a.storage().__aenter__()
    assert not a.root.exists()
    a.root.mkdir()
    a.mount()
    async with a.storage() as one, b.storage() as other:
        assert await one.read(KEY) == await other.read(KEY) == b"x"
        assert (a.root / MARK).read_text() == (b.root / MARK).read_text()
        assert [found.key async for found in one.list()] == [KEY]


async def test_a_first_start_on_a_shared_folder_wants_its_mark(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "root", tmp_path / "data"
    data_dir.mkdir()
    storage = FileStorage(Options(root=str(root), shared="yes"), data_dir)
    for _ in range(2):
        with pytest.raises(Unavailable, match="touch"):
            await storage.__aenter__()
        assert not (root / MARK).exists()
        root.mkdir(exist_ok=True)
    (root / MARK).touch()
    async with storage:
        await storage.put(KEY, [b"x"])
    (root / MARK).unlink()
    with pytest.raises(Unavailable, match="touch"):
        await FileStorage(Options(root=str(root)), data_dir).__aenter__()


async def test_another_store_in_the_place_of_the_one_it_was(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "root", tmp_path / "data"
    data_dir.mkdir()
    async with FileStorage(Options(root=str(root)), data_dir) as storage:
        await storage.put(KEY, [b"x"])
    (root / MARK).write_text("another\n")
    with pytest.raises(ConfigError, match="is not the storage that it was"):
        await FileStorage(Options(root=str(root)), data_dir).__aenter__()
    async with FileStorage(Options(root=str(tmp_path / "elsewhere")), data_dir):
        pass
    (data_dir / "storage-roots.json").unlink()
    async with FileStorage(Options(root=str(root)), data_dir) as storage:
        assert await storage.read(KEY) == b"x"


async def test_a_store_of_before_is_taken_over_and_one_of_the_node_needs_no_mark(tmp_path: Path) -> None:
    (tmp_path / "old" / "a").mkdir(parents=True)
    (tmp_path / "old" / "a" / "1").write_bytes(b"x")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    async with FileStorage(Options(root=str(tmp_path / "old")), data_dir) as storage:
        assert [found.key async for found in storage.list()] == ["a/1"]
    assert (tmp_path / "old" / MARK).read_text().strip()
    async with FileStorage(Options(), data_dir) as storage:
        await storage.put(KEY, [b"x"])
    assert not (data_dir / "storage" / MARK).exists()


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, when: Callable[..., bool]) -> list[Any]:
    """Have calls of os.`name` fail with errno `number` where `when` says so; return what they were called with."""
    real, failed = getattr(os, name), []

    def call(*words: Any, **more: Any) -> Any:
        if when(*words, **more):
            failed.append(words)
            raise OSError(number, os.strerror(number))
        return real(*words, **more)

    monkeypatch.setattr(os, name, call)
    return failed


def is_folder(fd: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_folders_that_cannot_be_synced(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = failing(monkeypatch, "fsync", number, is_folder)
    async with FileStorage(Options(reserve_bytes=0), tmp_path) as storage:
        await storage.put(KEY, [b"x"])
        await storage.put_soon("a/b", [b"y"])
        await storage.settle(["a/b"])
        assert await storage.read(KEY) == b"x"
    assert failed


async def test_a_file_that_is_made_before_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real(path, flags & ~os.O_DIRECT, mode, dir_fd=dir_fd)
        if flags & os.O_DIRECT:
            os.close(fd)
            raise OSError(errno.EOPNOTSUPP, "no such thing")
        return fd

    monkeypatch.setattr(os, "open", refuse)
    async with FileStorage(Options(reserve_bytes=0, past_cache="always"), tmp_path) as storage:
        for number in range(2):
            assert await storage.put(f"a/{number}", [bytes(300_000)]) == 300_000


async def test_a_shared_folder_does_not_go_past_the_cache_by_itself(
    one: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = failing(monkeypatch, "open", errno.EIO, lambda _, flags, *__, **___: bool(flags & os.O_DIRECT))
    for number in range(10):
        await one.put(f"a/{number}", [bytes(300_000)])
    assert failed == []


async def test_nothing_is_called_on_the_loop(one: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = threading.get_ident()
    names = ("open", "pread", "preadv", "fstat", "stat", "writev", "unlink", "fdatasync", "fstatvfs", "mkdir")
    with monkeypatch.context() as patch:
        failed = [failing(patch, name, errno.EIO, lambda *_, **__: threading.get_ident() == loop) for name in names]
        for number in range(20):
            await one.put(f"a/{number}", [b"small"])
            found = [await one.read(f"a/{number}", 1, 2), await one.read(f"a/{number}")]
            size = await one.size(f"a/{number}")
        await one.put("a/long", [bytes(300_000)], chunks(b"x"))
        await one.delete(["a/long", "a/1"])
        await one.ping()
    assert (found, size) == ([b"ma", b"small"], 5)
    assert failed == [[]] * len(names)


async def test_a_folder_that_went_stale_is_opened_anew(one: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    await one.put("a/b/1", [b"x"])
    stale = one._directories._known.get("a/b")
    assert stale is not None
    failed = failing(
        monkeypatch, "open", errno.ESTALE, lambda *_, dir_fd=None, **__: stale is not None and dir_fd == stale.fd
    )
    number = stale.fd
    stale = Open(os.dup(number))  # so that the number is used again for nothing else
    one._directories._known.remember("a/b", stale)
    await one.put("a/b/2", [b"y"])
    assert await one.read("a/b/2") == b"y"
    assert failed


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOENT])
async def test_a_file_that_went_stale_is_looked_for_anew(
    one: FileStorage, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.put(KEY, [b"x"])
    assert await one.read(KEY) == b"x"
    file = one._reader._open.get(KEY)
    assert file is not None
    stale = file.fd
    with monkeypatch.context() as patch:
        failed = failing(patch, "fstat", number, lambda fd: fd == stale)
        assert await one.read(KEY) == b"x"
        assert failed
    del file
    one.path(KEY).unlink()
    with pytest.raises(NotFound):
        await one.read(KEY)


async def test_a_root_that_went_stale_is_not_an_empty_one(one: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    await one.put(KEY, [b"x"])
    before = one._root_fd.fd
    with monkeypatch.context() as patch:
        for name in ("open", "stat"):
            failing(patch, name, errno.ESTALE, lambda *_, dir_fd=None, **__: dir_fd == before)
        failing(patch, "scandir", errno.ESTALE, lambda _: True)
        for call in (one.read(KEY), one.size(KEY)):
            with pytest.raises(Unavailable):
                await call
    assert one._is_lost
    await one.ping()  # the root is opened anew, under its number
    assert (one._root_fd.fd, one._is_lost) == (before, False)
    assert await one.read(KEY) == b"x"


async def test_what_nfs_makes_of_open_files_is_no_object(one: FileStorage) -> None:
    await one.put("a/1", [b"x"])
    (one.path("a/1").parent / ".nfs000000000012d68700000a5c").write_bytes(b"deleted, but still open somewhere")
    assert [found.key async for found in one.list()] == ["a/1"]


async def test_a_closing_file_may_tell_that_there_is_no_room(one: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, told in ((errno.EDQUOT, "no room"), (errno.EIO, "error")):
        with monkeypatch.context() as patch:
            failing(patch, "fdatasync", number, lambda _: True)
            with pytest.raises(Exception, match=told):
                await one.put(KEY, [b"x"])
        assert await one.size(KEY) is None
