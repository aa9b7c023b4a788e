"""How one object gets onto the disk and off it again. Everything here blocks and runs in a thread.

A file is made under its final name with O_EXCL and never renamed; it counts only once `finish` has returned. What fails
before that is unlinked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence

from dicomnode.errors import Full
from dicomnode.ports.storage import Buffer
from dicomnode_files import direct
from dicomnode_files.directories import Directories, Open, sync_directory

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 20
_PAUSE_S = 0.01
_REMOVED = frozenset({errno.ENOENT, errno.ESTALE})  # the second where another machine did it
_ROOM_S = 0.25
try:
    _IOV_MAX = os.sysconf("SC_IOV_MAX")
except (ValueError, OSError):
    _IOV_MAX = 16


class Writer:
    """Writes objects below a root."""

    def __init__(
        self, directories: Directories, *, sync: bool, way: direct.Way = "auto", elsewhere: bool = False
    ) -> None:
        self._directories = directories
        self._sync = sync
        self._pause_s = _PAUSE_S if elsewhere else 0.0
        self._ways = direct.Ways(way)
        self._rooms = direct.Rooms()

    def whole(self, key: str, head: Sequence[Buffer]) -> int:
        """Have `head` durable under `key`; return its size in bytes. Nothing is left when it raises."""
        size = size_of(head)
        if size < direct.LONG_BYTES:
            return self._whole(key, head, past_cache=False)
        past_cache = self._ways.direct()
        started = time.thread_time()
        self._whole(key, head, past_cache=past_cache)
        self._ways.took(past_cache, time.thread_time() - started, size)
        return size

    def _whole(self, key: str, head: Sequence[Buffer], *, past_cache: bool) -> int:
        draft = self._begin(key, direct.opened) if past_cache else self.begin(key)
        if draft is None:
            self._ways.forbid()
            return self._whole(key, head, past_cache=False)
        try:
            size = direct.write(draft.fd, head, self._rooms) if past_cache else draft.append(head)
            draft.finish()
        except BaseException:
            draft.discard()
            raise
        return size

    def begin(self, key: str) -> Draft:
        """Make the file of `key` and the directories above it. Raises: FileExistsError."""
        draft = self._begin(key, _opened)
        assert draft is not None
        return draft

    def _begin(self, key: str, opened: Callable[[str, int, Open], int | None]) -> Draft | None:
        path, _, name = key.rpartition("/")
        for attempt in range(_ATTEMPTS):
            try:
                directory = self._directories.open(path)
                fd = opened(name, _NEW, directory)
                return None if fd is None else Draft(directory, name, fd, sync=self._sync)
            except OSError as error:  # removed between our opening and using it: pruned, or by someone else
                if error.errno not in _REMOVED or attempt == _ATTEMPTS - 1:
                    raise
                self._directories.forget(path)
                # What another machine has just made may not be seen here yet, though it is in the way.
                time.sleep(self._pause_s * attempt)
        raise AssertionError("unreachable")


def _opened(name: str, flags: int, directory: Open) -> int:
    return os.open(name, flags, 0o666, dir_fd=directory.fd)


def size_of(parts: Sequence[Buffer]) -> int:
    """Return how many bytes `parts` have together."""
    return sum(len(part) if isinstance(part, bytes) else memoryview(part).nbytes for part in parts)


class Draft:
    """A file that is being written."""

    __slots__ = ("_directory", "_name", "_sync", "fd")

    def __init__(self, directory: Open, name: str, fd: int, *, sync: bool) -> None:
        self._directory = directory
        self._name = name
        self.fd = fd
        self._sync = sync

    def append(self, parts: Sequence[Buffer]) -> int:
        """Write all of `parts`; return how many bytes that was."""
        total = size_of(parts)
        written = os.writev(self.fd, parts) if 0 < len(parts) <= _IOV_MAX else 0
        if written < total:
            self._append_rest(parts, written)
        return total

    def _append_rest(self, parts: Sequence[Buffer], written: int) -> None:
        """Write what lies behind the first `written` bytes of `parts`: the kernel takes 2 GiB and IOV_MAX at most."""
        left = [memoryview(part).cast("B") for part in parts if len(part)]
        while left:
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]
                written = os.writev(self.fd, left[:_IOV_MAX])

    def finish(self) -> None:
        """Have the file and its name durable."""
        if self._sync:
            os.fdatasync(self.fd)
            sync_directory(self._directory)
        fd, self.fd = self.fd, -1
        os.close(fd)

    def discard(self) -> None:
        """Leave nothing of the file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._name, dir_fd=self._directory.fd)


class Room:
    """Whether there is room on the file system, looked at a few times a second."""

    def __init__(self, root: Open, reserve_bytes: int, plugin: str) -> None:
        self._root = root
        self._reserve = reserve_bytes
        self._plugin = plugin
        self._next = 0.0
        self._free = 0

    def left(self) -> int:
        """Return how many bytes are free now, but for the reserve."""
        found = os.fstatvfs(self._root.fd)
        return max(0, found.f_bavail * found.f_frsize - max(0, self._reserve))

    def check(self, *, now: bool = False) -> None:
        """Return when more than the reserve is free. Raises: Full."""
        if self._reserve <= 0 and not now:
            return
        clock = time.monotonic()
        if now or clock >= self._next or self._free <= self._reserve:
            found = os.fstatvfs(self._root.fd)
            self._free = found.f_bavail * found.f_frsize
            self._next = clock + _ROOM_S
        if self._free <= self._reserve:
            raise Full(self._plugin, f"{self._free} bytes are free and {self._reserve} are kept in reserve")
