"""Reading and finding objects on the disk.

What the page cache holds is read on the event loop, because a hop to a thread costs more than the copy. Files are
opened there too as long as that is quick. All else happens in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dicomnode.errors import NotFound
from dicomnode.ports.offload import Quickness
from dicomnode.ports.storage import StoredObject, check_key
from dicomnode_files.directories import Open, OpenFiles

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
AT_ONCE = 1024 * 1024


class Reader:
    """Reads objects below a root; keeps the last used files open."""

    def __init__(self, root: Open, quickness: Quickness, most_open: int = 128) -> None:
        self._root = root
        self._quickness = quickness
        self._nowait = _NOWAIT
        self._open = OpenFiles(most_open)
        self._scratch = memoryview(bytearray(AT_ONCE))  # only ever filled and emptied on the event loop

    def at_once(self, key: str, offset: int, length: int | None) -> bytes | None:
        """Return the bytes if that needs no waiting for a disk, None where it might. For the event loop's thread.

        Raises: NotFound.
        """
        file = self._open.get(key)
        if (file is None or not self._nowait) and not self._quickness.tried():
            return None
        try:
            file = file or self._quickness.timed(self._find, key)
            wanted = _wanted(file, offset, length)
            if wanted <= 0:
                return b"" if wanted == 0 else None
            return self._read_now(file.fd, offset, wanted) if wanted <= AT_ONCE else None
        except OSError as error:  # EAGAIN: not in the cache
            if error.errno == errno.EOPNOTSUPP:
                self._nowait = 0
            return None

    def _read_now(self, fd: int, offset: int, wanted: int) -> bytes | None:
        if not self._nowait:
            # tmpfs cannot say whether it would wait; it is quick, or it is not asked again for a while.
            found = self._quickness.timed(os.pread, fd, wanted, offset)
            return found if len(found) == wanted else None
        view = self._scratch[:wanted]
        return bytes(view) if os.preadv(fd, [view], offset, self._nowait) == wanted else None

    def read(self, key: str, offset: int, length: int | None) -> bytes:
        """Return the bytes, fewer than `length` only at the end. Raises: NotFound, OSError."""
        file = self._open.get(key)
        if file is None or os.fstat(file.fd).st_nlink == 0:
            file = self._find(key)
        wanted = max(_wanted(file, offset, length), 0)
        first = os.pread(file.fd, wanted, offset)
        if len(first) == wanted:
            return first
        return _read_rest(file.fd, first, offset, wanted)

    def _find(self, key: str) -> Open:
        try:
            file = Open(os.open(key, _READ, dir_fd=self._root.fd))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound("there is no such object in the storage") from None
        if not stat.S_ISREG(os.fstat(file.fd).st_mode):
            raise NotFound("there is no such object in the storage")
        self._open.remember(key, file)
        return file

    def size(self, key: str) -> int | None:
        """Return the size in bytes, None where there is no such file. Raises: OSError."""
        try:
            found = os.stat(key, dir_fd=self._root.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def forget(self, key: str) -> None:
        """Close the file, once nobody reads it."""
        self._open.forget(key)

    def clear(self) -> None:
        """Close all files."""
        self._open.clear()


def _wanted(file: Open, offset: int, length: int | None) -> int:
    """Return how many bytes there are to read, -1 when the file was deleted."""
    found = os.fstat(file.fd)
    if found.st_nlink == 0:
        return -1
    there = max(found.st_size - offset, 0)
    return there if length is None else min(length, there)


def _read_rest(fd: int, first: bytes, offset: int, wanted: int) -> bytes:
    """Read on where the kernel gave less than asked: 2 GiB at most at a time."""
    parts, have = [first], len(first)
    while have < wanted and (part := os.pread(fd, wanted - have, offset + have)):
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def walk(root: Path, prefix: str) -> Iterator[StoredObject]:
    """Yield the files below `root` whose path from there is a key and starts with `prefix`. Raises: OSError."""
    waiting = [prefix]
    while waiting:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # pruned while we walk
            yield from _look(root, waiting.pop(), waiting)


def _look(root: Path, folder: str, waiting: list[str]) -> Iterator[StoredObject]:
    with os.scandir(root / folder) as entries:
        for entry in entries:
            key = folder + entry.name
            if not _is_key(key):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(key + "/")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield StoredObject(key, entry.stat(follow_symlinks=False).st_size)


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except ValueError:
        return False
    return True
