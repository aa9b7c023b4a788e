"""Reading and finding objects on the disk.

What the page cache holds is read on the event loop, because a hop to a thread costs more than the copy. Files are
opened there too as long as that is quick. All else happens in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from dicomnode.errors import NotFound
from dicomnode.ports.offload import Quickness
from dicomnode.ports.storage import StoredObject, check_key
from dicomnode_files.directories import Open, OpenFiles, open_directory

T = TypeVar("T")

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
AT_ONCE = 1024 * 1024
# How long after one another to look again for what other machines may have made: a name that was once not there is
# taken for absent for a while, unless the folders above it are opened anew.
_LATE_S = (0.0, 0.2, 1.0)
_REMOVED = frozenset({errno.ESTALE, errno.ENOENT})  # what an open file says that another machine has removed
_SILLY = re.compile(r"\.nfs[0-9a-f]{8,}")  # what NFS makes of a file that is deleted while it is open


class Reader:
    """Reads objects below a root; keeps the last used files open.

    Where the root is `elsewhere` nothing is read at once, and what is not found is looked for again.
    """

    def __init__(self, root: Open, quickness: Quickness, most_open: int = 128, *, elsewhere: bool = False) -> None:
        self._root = root
        self._elsewhere = elsewhere
        self._quickness = quickness
        self._nowait = _NOWAIT
        self._open = OpenFiles(most_open)
        self._scratch = memoryview(bytearray(AT_ONCE))  # only ever filled and emptied on the event loop

    def at_once(self, key: str, offset: int, length: int | None) -> bytes | None:
        """Return the bytes if that needs no waiting for a disk, None where it might. For the event loop's thread.

        Raises: NotFound.
        """
        if self._elsewhere:
            return None
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
        if file is not None:
            try:
                if os.fstat(file.fd).st_nlink > 0:
                    return _read(file, offset, length)
            except OSError as error:
                if error.errno not in _REMOVED:
                    raise
            self._open.forget(key)
        return _read(self._find(key), offset, length)

    def _find(self, key: str) -> Open:
        file = self._looked_for(key, _opened)
        if file is None:
            raise NotFound("there is no such object in the storage")
        self._open.remember(key, file)
        return file

    def size(self, key: str) -> int | None:
        """Return the size in bytes, None where there is no such file. Raises: OSError."""
        return self._looked_for(key, _size)

    def _looked_for(self, key: str, look: Callable[[str, Open], T | None]) -> T | None:
        """Return what `look` finds of a path below a folder, None where there is nothing. Raises: OSError."""
        for pause_s in (None, *_LATE_S) if self._elsewhere else (None,):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if pause_s is None:
                    return look(key, self._root)
                time.sleep(pause_s)
                return self._look_anew(key, look)
        return None

    def _look_anew(self, key: str, look: Callable[[str, Open], T | None]) -> T | None:
        """Look with every folder of the path opened, at which its names are asked for anew."""
        folder, (*parts, name) = self._root, key.split("/")
        for part in parts:
            folder = open_directory(part, folder)
        return look(name, folder)

    def forget(self, key: str) -> None:
        """Close the file, once nobody reads it."""
        self._open.forget(key)

    def clear(self) -> None:
        """Close all files."""
        self._open.clear()


def _opened(path: str, folder: Open) -> Open | None:
    file = Open(os.open(path, _READ, dir_fd=folder.fd))
    return file if stat.S_ISREG(os.fstat(file.fd).st_mode) else None


def _size(path: str, folder: Open) -> int | None:
    found = os.stat(path, dir_fd=folder.fd, follow_symlinks=False)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _read(file: Open, offset: int, length: int | None) -> bytes:
    there = max(os.fstat(file.fd).st_size - offset, 0)
    wanted = there if length is None else min(length, there)
    first = os.pread(file.fd, wanted, offset)
    return first if len(first) == wanted else _read_rest(file.fd, first, offset, wanted)


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
        try:
            yield from _look(root, waiting.pop(), waiting)
        except (FileNotFoundError, NotADirectoryError):  # pruned while we walk
            continue
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            os.stat(root)  # by another machine, as long as the root is there


def _look(root: Path, folder: str, waiting: list[str]) -> Iterator[StoredObject]:
    with os.scandir(root / folder) as entries:
        for entry in entries:
            key = folder + entry.name
            if not _is_key(key) or _SILLY.fullmatch(entry.name):
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
