"""Objects as files below one folder, `root / key`; any tool can read them, and no file is ever changed or renamed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, TypeVarTuple, Unpack

import msgspec

from dicomnode.errors import ConfigError, Full, PluginError, Unavailable
from dicomnode.ports.offload import Call, Quickness, Threads
from dicomnode.ports.storage import (
    Buffer,
    Deferring,
    FreeSpace,
    LocalPath,
    Storage,
    StoredObject,
    check_key,
    check_prefix,
)
from dicomnode_files.direct import Way
from dicomnode_files.directories import Directories, Open
from dicomnode_files.mark import Mark
from dicomnode_files.mounts import is_elsewhere
from dicomnode_files.reading import Reader, walk
from dicomnode_files.settling import settle
from dicomnode_files.writing import Draft, Room, Writer

# A MiB is copied out of memory in 200 us, and waking a thread for it would take as long again.
_READ_PATIENCE = 3

T = TypeVar("T")
Args = TypeVarTuple("Args")

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BATCH = 1000
_SMALL_BYTES = 64 * 1024
_AT_ONCE_S = 20e-6  # a sync below this asks no disk: the file system is in memory
_NAME = "files"
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PATIENCE_S = 4.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`root`: the folder (default `<data_dir>/storage`). `fsync`: whether a put waits for the disk.

    `threads`: how many calls may wait for the disk at once. `reserve_bytes`: with less free space puts are refused.
    `loop_below_us`: small objects are written, and files opened to be read, without a thread while that takes fewer
    microseconds; 0: never.
    `past_cache`: whether objects of 256 KiB and more go to the disk past the page cache; "auto": where that costs less.
    `shared`: whether other machines use the folder too (docs/backends.md); "auto": by the kind of its file system.
    """

    root: str = ""
    fsync: Literal["always", "never"] = "always"
    threads: int = 8
    reserve_bytes: int = 256 * 1024 * 1024
    loop_below_us: int = 150
    past_cache: Way = "auto"
    shared: Literal["auto", "yes", "no"] = "auto"


class FileStorage(Storage, Deferring, LocalPath, FreeSpace):
    """A folder of files."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._root = Path(options.root) if options.root else data_dir / "storage"
        self._threads = Threads(max(1, options.threads), "files")
        self._quickness = Quickness(options.loop_below_us / 1e6)
        self._unsynced_quickness = Quickness(options.loop_below_us / 1e6)
        self._unsettled: set[str] = set()
        self._doubtful: set[str] = set()
        self._defers = False
        self._elsewhere = False
        self._mark = Mark(self._root, data_dir, demanded=options.shared == "yes")
        self._pinging: Call[None] | None = None
        self._is_lost = False

    async def __aenter__(self) -> Self:
        try:
            root = await asyncio.to_thread(self._open)
        except OSError as error:
            raise ConfigError(
                "storage.options.root",
                f"{self._root} cannot be used: {error.strerror}",
                "name a folder that this user may write to",
            ) from error
        sync, elsewhere, way = self._options.fsync == "always", self._elsewhere, self._options.past_cache
        if elsewhere and way == "auto":
            way = "never"
        self._root_fd = root
        self._directories = Directories(root, sync=sync)
        self._writer = Writer(self._directories, sync=sync, way=way, elsewhere=elsewhere)
        self._unsynced_writer = Writer(self._directories, sync=False, way="never", elsewhere=elsewhere)
        quickness = Quickness(_READ_PATIENCE * self._options.loop_below_us / 1e6)
        self._reader = Reader(root, quickness, elsewhere=elsewhere)
        self._room = Room(root, self._options.reserve_bytes, _NAME)
        self._threads.start()
        return self

    def _open(self) -> Open:
        """Open the root, which is the storage that it was, and learn what it is on. Raises: OSError, NodeError."""
        if not self._mark.expected:
            self._root.mkdir(parents=True, exist_ok=True)
        elif not self._root.is_dir():
            raise self._mark.missing()
        root = Open(os.open(self._root, _ROOT))
        self._mark.check(root)
        self._elsewhere = self._options.shared == "yes" or (self._options.shared == "auto" and is_elsewhere(root.fd))
        if self._elsewhere:
            self._quickness = self._unsynced_quickness = Quickness(0.0)
        if min(_try_writing(root) for _ in range(3)) > _AT_ONCE_S:
            self._defers = self._options.fsync == "always" and not self._elsewhere
        return root

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._threads.close()
        self._directories.clear()
        self._reader.clear()

    async def ping(self) -> None:
        """Return when there is room and a file can be made, soon. Raises: Unavailable, Full."""
        if self._pinging is None or self._pinging.done():
            self._pinging = self._threads.run(self._ping)
        await asyncio.wait([self._pinging], timeout=_PATIENCE_S)
        if not self._pinging.done():
            raise Unavailable(_NAME, "the file system does not answer")
        try:
            self._pinging.result()
        except OSError as error:
            raise self._told(error) from error

    def _ping(self) -> None:
        if self._is_lost:
            self._find_root_again()
        self._room.check(now=True)
        _try_writing(self._root_fd)

    async def free_bytes(self) -> int:
        """Return what is free on the file system, but for the reserve. Raises: Unavailable."""
        return await self._run(self._room.left)

    def path(self, key: str) -> Path:
        """Return where the bytes of `key` are, or would be. Raises: ValueError for what is no key."""
        return self._root / check_key(key)

    async def put(self, key: str, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None = None) -> int:
        """Keep `head` and `rest` in the file of `key`; see Storage."""
        check_key(key)
        if rest is None:
            return await self._put_whole(key, head)
        draft, size = await self._begin(key, head)
        try:
            async for part in rest:
                size += await self._run(draft.append, (part,))
            await self._run(draft.finish)
        except BaseException:
            await self._run(draft.discard)
            raise
        return size

    async def _put_whole(self, key: str, head: Sequence[Buffer]) -> int:
        if sum(map(len, head)) <= _SMALL_BYTES:
            call = self._threads.run_quickly(self._quickness, self._write_whole, self._writer, key, head)
        else:
            call = self._threads.run(self._write_whole, self._writer, key, head)
        return await self._kept(key, call)

    @property
    def defers(self) -> bool:
        """Whether a sync waits for a disk."""
        return self._defers

    async def put_soon(self, key: str, head: Sequence[Buffer]) -> int:
        """Keep `head` in the file of `key`, for the time being without a wait for the disk; see Deferring."""
        check_key(key)
        self._unsettled.add(key)
        call = self._threads.run_quickly(self._unsynced_quickness, self._write_whole, self._unsynced_writer, key, head)
        try:
            return await self._kept(key, call)
        except BaseException:
            self._unsettled.discard(key)
            raise

    async def settle(self, keys: Sequence[str]) -> None:
        """Have the files of `keys` durable; see Deferring."""
        for key in keys:
            check_key(key)
        if not self._doubtful.isdisjoint(keys):
            raise Unavailable(_NAME, "the file system failed to write what it had taken")
        if self._options.fsync == "always" and keys:
            try:
                await self._run(self._settle, keys)
            except PluginError:
                self._doubtful |= self._unsettled.union(keys)
                raise
        self._unsettled.difference_update(keys)

    def _settle(self, keys: Sequence[str]) -> None:
        settle(self._directories, keys, elsewhere=self._elsewhere)

    async def _kept(self, key: str, call: Call[int]) -> int:
        try:
            return await call
        except OSError as error:
            raise self._told(error) from error
        except asyncio.CancelledError:
            if call.done() and not call.exception():  # by now the file is there, and nobody wants it
                await self._run(self._remove, [key])
            raise

    def _write_whole(self, writer: Writer, key: str, head: Sequence[Buffer]) -> int:
        self._room.check()
        return writer.whole(key, head)

    async def _begin(self, key: str, head: Sequence[Buffer]) -> tuple[Draft, int]:
        call = self._threads.run(self._write_head, key, head)
        try:
            return await call
        except OSError as error:
            raise self._told(error) from error
        except asyncio.CancelledError:
            if call.done() and not call.exception():
                await self._run(call.result()[0].discard)
            raise

    def _write_head(self, key: str, head: Sequence[Buffer]) -> tuple[Draft, int]:
        self._room.check()
        draft = self._writer.begin(key)
        try:
            return draft, draft.append(head)
        except BaseException:
            draft.discard()
            raise

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset`; see Storage."""
        check_key(key)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length are not negative")
        found = self._reader.at_once(key, offset, length)
        return found if found is not None else await self._run(self._reader.read, key, offset, length)

    async def size(self, key: str) -> int | None:
        """Return the size in bytes of the file of `key`, None where there is none. Raises: Unavailable."""
        return await self._run(self._reader.size, check_key(key))

    async def delete(self, keys: Sequence[str]) -> None:
        """Have no files under `keys`, nor the folders that this leaves empty. Raises: Unavailable."""
        for key in keys:
            check_key(key)
        for start in range(0, len(keys), _BATCH):
            await self._run(self._remove, keys[start : start + _BATCH])
        self._unsettled.difference_update(keys)
        self._doubtful.difference_update(keys)

    def _remove(self, keys: Sequence[str]) -> None:
        folders = set()
        for key in keys:
            self._reader.forget(key)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(key, dir_fd=self._root_fd.fd)
                folders.add(key.rpartition("/")[0])
        for folder in folders:
            self._prune(folder)

    def _prune(self, folder: str) -> None:
        """Remove `folder` and those above it as far as they are empty."""
        while folder:
            try:
                os.rmdir(folder, dir_fd=self._root_fd.fd)
            except FileNotFoundError:
                pass
            except OSError:  # not empty, or a mount point: it stays
                return
            self._directories.forget(folder)
            folder = folder.rpartition("/")[0]

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield every file below `prefix` whose path is a key; in no set order. Raises: Unavailable."""
        found = walk(self._root, check_prefix(prefix))
        while batch := await self._run(_some, found):
            for each in batch:
                yield each

    async def _run(self, function: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        try:
            return await self._threads.run(function, *args)
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> PluginError:
        if error.errno == errno.ESTALE:
            self._is_lost = True
        if error.errno in _NO_ROOM:
            return Full(_NAME, "no room is left on the file system")
        if isinstance(error, FileExistsError):
            return Unavailable(_NAME, "the key is in use already")
        return Unavailable(_NAME, error.strerror or "the file system failed")

    def _find_root_again(self) -> None:
        """Have the root open anew: a server that was set up anew does not know what was open. Raises: OSError."""
        root = Open(os.open(self._root, _ROOT))
        self._mark.check(root)
        self._directories.clear()
        self._reader.clear()
        os.dup2(root.fd, self._root_fd.fd, inheritable=False)
        self._is_lost = False


def _some(found: Iterator[StoredObject]) -> Sequence[StoredObject]:
    return tuple(itertools.islice(found, _BATCH))


def _try_writing(root: Open) -> float:
    """Make a file and remove it; return how many seconds it took to have it durable."""
    name = f"~{secrets.token_hex(8)}"  # no key has a `~`, so that no one takes it for an object
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root.fd)
    try:
        os.write(fd, b"?")
        began = time.perf_counter()
        os.fdatasync(fd)
        return time.perf_counter() - began
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=root.fd)


_: type[Storage] = FileStorage
