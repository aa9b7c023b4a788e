"""Small documents in a folder, one a file of JSON: durable when written, each there as a whole or not at all.

Everything here blocks, and is meant for threads. Several processes and people may write to the folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from dicomnode.errors import Full, Unavailable

SUFFIX = ".json"
LONGEST_BYTES = 32 * 1024 * 1024

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
_LOCK = ".lock"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Listed(msgspec.Struct, frozen=True, gc=False):
    """A file as it stood in the folder: its name there, when it was last written (ns since 1970), its size in bytes.

    The inode tells two apart that were written within one tick of the file system's clock.
    """

    file: str
    mtime_ns: int
    size: int
    inode: int


class Documents:
    """The documents of every tenant: those of `home` stand in `root` itself, those of another in a folder of its name.

    `subject` is what errors call them. Files whose names begin with a dot or do not end with `.json` are no documents.
    """

    def __init__(self, root: Path, home: str, subject: str) -> None:
        self.root = root
        self._home = home
        self._subject = subject
        self._lock = threading.Lock()

    def folder(self, tenant: str) -> Path:
        """Return where the documents of a tenant are, or would be."""
        return self.root if tenant == self._home else self.root / tenant

    def listed(self, tenant: str) -> list[Listed]:
        """Return the documents of a tenant, the newest first. Raises: Unavailable."""
        with self._told():
            try:
                return sorted(_documents(self.folder(tenant)), key=lambda one: (-one.mtime_ns, one.file))
            except FileNotFoundError:
                return []

    def tenants(self) -> list[str]:
        """Return the tenants that may have documents. Raises: Unavailable."""
        with self._told():
            try:
                with os.scandir(self.root) as entries:
                    return [self._home, *sorted(entry.name for entry in entries if entry.is_dir())]
            except FileNotFoundError:
                return []

    def read(self, tenant: str, file: str) -> bytes | None:
        """Return a document, None where there is none, or none of up to 32 MiB. Raises: Unavailable."""
        with self._told():
            try:
                # A pipe in the place of a file must not hold this thread up.
                descriptor = os.open(self._path(tenant, file), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as opened:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return None
                body = opened.read(LONGEST_BYTES + 1)
        return body if len(body) <= LONGEST_BYTES else None

    def write(self, tenant: str, file: str, body: bytes, *, new: bool = False) -> bool:
        """Have `body` under this name, instead of what was there; it then survives a crash.

        With `new`, return False and change nothing where there is something. Raises: Unavailable, Full.
        """
        path = self._path(tenant, file)
        beside = path.with_name(f".{file}.{secrets.token_hex(6)}")  # its own: other processes write here as well
        with self._told():
            if new and path.exists():
                return False
            self._make(path.parent)
            try:
                with beside.open("wb") as opened:
                    opened.write(body)
                    opened.flush()
                    os.fsync(opened.fileno())
                written = _put_new(beside, path) if new else beside.replace(path) is not None
            finally:
                with suppress(OSError):
                    beside.unlink(missing_ok=True)
            _sync(path.parent)
        return written

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have no other thread or process within this at the same time: to read a document and write it changed.

        Raises: Unavailable.
        """
        with self._lock:
            with self._told():
                self._make(self.root)
                lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                with self._told(), _unless_unknown():
                    fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    def delete(self, tenant: str, file: str) -> bool:
        """Have nothing under this name any more; return whether there was something. Raises: Unavailable."""
        with self._told():
            path = self._path(tenant, file)
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            _sync(path.parent)
        return True

    def _path(self, tenant: str, file: str) -> Path:
        if "/" in file or "\0" in file or file.startswith("."):
            raise ValueError("not the name of a document")
        return self.folder(tenant) / file

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync(folder.parent)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = Full if error.errno in _NO_ROOM else Unavailable
            raise kind(self._subject, error.strerror or str(error.errno)) from error


def file_of(name: str) -> str:
    """Return the file of a document of this name, which is safe in a path. Raises: ValueError, quoting nothing."""
    if not is_name(name):
        raise ValueError("not the name of a document")
    return name + SUFFIX


def is_name(text: str) -> bool:
    """Tell whether a document may be given this name: 1 to 128 of A-Z a-z 0-9 . _ -, first a letter or digit."""
    return _NAME.fullmatch(text) is not None


@contextmanager
def _unless_unknown() -> Iterator[None]:
    """Go on where the file system knows no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _put_new(beside: Path, path: Path) -> bool:
    """Have what is `beside` at `path`, unless something is there; return whether nothing was."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        beside.replace(path)  # a file system without links: who looked a moment ago saw nothing there
    return True


def _documents(folder: Path) -> Iterator[Listed]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
                continue
            with suppress(FileNotFoundError):  # it went away since
                if entry.is_file():
                    status = entry.stat()
                    yield Listed(entry.name, status.st_mtime_ns, status.st_size, status.st_ino)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
