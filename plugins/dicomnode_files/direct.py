"""Long objects on a way past the page cache, where that costs far less.

A write through the page cache copies into memory that must be found first. Where the machine is a virtual one that gets
its memory lent page by page, this costs more than all the rest (512 KB: 1.2 ms of processor, of 1.6 ms in all; past the
cache 0.2 of 0.5). Elsewhere it costs little, and what was just received is then read from memory. So both are tried.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from typing import Literal

from dicomnode.ports.storage import Buffer
from dicomnode_files.directories import Open

LONG_BYTES = 256 * 1024
_BLOCK = 4096
_ROOM_BYTES = 1024 * 1024
_KEPT = 8
_WORTH = 2.5
_TRIALS = 8
_AGAIN = 64
_DIRECT = getattr(os, "O_DIRECT", 0)
_REFUSED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})

Way = Literal["auto", "always", "never"]


class Ways:
    """Which of the two ways the next long object goes.

    With "auto" the first objects alternate, later ones take the cheaper way, and every 64th the other one to see
    whether this is still so. What is compared is the thread's processor time: waits are long when much is under way.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._count = 0
        self._means: dict[bool, float] = {}

    def direct(self) -> bool:
        """Return whether the next long object goes past the page cache."""
        if self._way != "auto":
            return self._way == "always"
        self._count += 1
        if self._count <= _TRIALS:
            return self._count % 2 == 0
        other = self._count % _AGAIN == 0
        return self._is_cheaper() != other

    def _is_cheaper(self) -> bool:
        return False not in self._means or self._means.get(True, float("inf")) * _WORTH < self._means[False]

    def took(self, direct: bool, seconds: float, size: int) -> None:
        """Take into account that `size` bytes took `seconds` of processor time."""
        pace = seconds / max(size, 1)
        mean = self._means.get(direct, pace)
        self._means[direct] = mean + (pace - mean) / 4

    def forbid(self) -> None:
        """Never go past the page cache again: this file system does not have it."""
        self._way = "never"


class Rooms:
    """Aligned memory for writing, kept for the next use; each piece is one writer's until it is given back."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self) -> mmap.mmap:
        """Return a piece of 1 MiB."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return mmap.mmap(-1, _ROOM_BYTES)

    def give(self, room: mmap.mmap) -> None:
        """Have `room` used again."""
        with self._lock:
            if len(self._free) < _KEPT:
                self._free.append(room)


def opened(name: str, flags: int, directory: Open) -> int | None:
    """Return a descriptor that writes past the page cache; None where the file system has no such thing."""
    try:
        return os.open(name, flags | _DIRECT, 0o666, dir_fd=directory.fd)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    with contextlib.suppress(FileNotFoundError):  # some have made the file before they look how it is to be opened
        os.unlink(name, dir_fd=directory.fd)
    return None


def write(fd: int, parts: Sequence[Buffer], rooms: Rooms) -> int:
    """Write all of `parts` to the empty file `fd`, whole blocks past the page cache; return how many bytes that was."""
    room = rooms.take()
    try:
        with memoryview(room) as view:
            return _write(fd, parts, view)
    finally:
        rooms.give(room)


def _write(fd: int, parts: Sequence[Buffer], room: memoryview) -> int:
    total = used = 0
    for part in parts:
        left = memoryview(part).cast("B")
        total += len(left)
        while left:
            taken = min(len(left), len(room) - used)
            room[used : used + taken] = left[:taken]
            used, left = used + taken, left[taken:]
            if used == len(room):
                _write_all(fd, room)
                used = 0
    whole = used - used % _BLOCK
    _write_all(fd, room[:whole])
    if whole < used:
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # the last piece is no whole block: it goes through the page cache
        _write_all(fd, room[whole:used])
    return total


def _write_all(fd: int, data: memoryview) -> None:
    """Write `data`; where it cannot go on past the page cache, through it."""
    while data:
        try:
            written = os.write(fd, data)
        except OSError as error:
            if error.errno not in _REFUSED or not fcntl.fcntl(fd, fcntl.F_GETFL) & _DIRECT:
                raise
            written = 0
        data = data[written:]
        if data and (not written or written % _BLOCK):
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)
