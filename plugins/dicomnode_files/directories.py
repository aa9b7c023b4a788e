"""Open descriptors below the root, kept for the next use.

A descriptor is closed when nobody holds its `Open` any more, so that one which is forgotten while another thread works
with it keeps its number until then. No symbolic link below the root is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class Open:
    """A descriptor that is closed with its last holder."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def sync_directory(directory: Open) -> None:
    """Have the names in a directory durable; some file systems of others always do, and know no such call."""
    try:
        os.fsync(directory.fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def open_directory(part: str, parent: Open) -> Open:
    """Return the directory `part` of `parent`. Raises: OSError."""
    return Open(os.open(part, _DIRECTORY, dir_fd=parent.fd))


class OpenFiles:
    """The last used `Open`s by name, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[str, Open] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Open | None:
        """Return what was remembered under `name`, if it still is."""
        with self._lock:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
            return found

    def remember(self, name: str, opened: Open) -> None:
        """Have `opened` found under `name`; what was used longest ago is forgotten."""
        with self._lock:
            old = [self._open.pop(name, None)]
            self._open[name] = opened
            if len(self._open) > self._most:
                old.append(self._open.popitem(last=False)[1])
        del old  # closed outside the lock

    def forget(self, name: str) -> None:
        """Have nothing under `name`."""
        with self._lock:
            old = self._open.pop(name, None)
        del old

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            old, self._open = self._open, OrderedDict()
        del old


class Directories:
    """The directories of the root, made when first asked for and durable (with `sync`) before they are used."""

    def __init__(self, root: Open, *, sync: bool, most: int = 512) -> None:
        self._root = root
        self._sync = sync
        self._known = OpenFiles(most)
        self._making = threading.Lock()

    def open(self, path: str) -> Open:
        """Return the directory `path` (parts and `/`, empty for the root); make it where it is not there."""
        if not path:
            return self._root
        return self._known.get(path) or self._make(path)

    def find(self, path: str) -> Open | None:
        """Return the directory `path` if it is there; make nothing."""
        found = self._known.get(path) if path else self._root
        if found is None:
            found = self._root
            try:
                for part in path.split("/"):
                    found = open_directory(part, found)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found

    def forget(self, path: str) -> None:
        """Look again for `path` and all that leads to it when next asked."""
        while path:
            self._known.forget(path)
            path = path.rpartition("/")[0]

    def clear(self) -> None:
        """Close all that is not in use."""
        self._known.clear()

    def _make(self, path: str) -> Open:
        with self._making:  # else one thread could use what another has made and not yet synced
            parent, known, walked = self._root, None, ""
            for part in path.split("/"):
                walked = f"{walked}/{part}" if walked else part
                known = self._known.get(walked) or self._step(parent, part)
                self._known.remember(walked, known)
                parent = known
            return parent

    def _step(self, parent: Open, part: str) -> Open:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o777, dir_fd=parent.fd)
        if self._sync:  # also for what was there: who made it may have ended before its sync
            sync_directory(parent)
        return open_directory(part, parent)
