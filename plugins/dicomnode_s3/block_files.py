"""Blocks of objects as files of one folder. Everything here blocks and runs in a thread.

A file has a name that no other ever has and is not changed once it is written, so that one which is found under a
name the index knows is whole. What an earlier process left may be torn by a crash: it ends in a checksum.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from dicomnode.errors import ConfigError
from dicomnode.ports.storage import Buffer

_TRAILER = struct.Struct("<QI4s")  # the object's size, CRC-32 of the block and that size, a mark
_MARK = b"dnb1"
_NAME = re.compile(r"([0-9a-f]{40})-(\d{1,12})-([0-9a-f]{12})")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class BlockId(msgspec.Struct, frozen=True, gc=False):
    """Block `number` of the object whose key has this digest."""

    digest: str
    number: int


class BlockFile(msgspec.Struct, frozen=True, gc=False):
    """The file of a block: what makes its name unlike all others, and how many bytes of the object are in it."""

    token: str
    length: int


class Left(msgspec.Struct, frozen=True, gc=False):
    """What an earlier process has left, not looked into yet."""

    block: BlockId
    file: BlockFile
    written_ns: int


class Torn(Exception):
    """The file does not hold what was written to it."""


class Folder:
    """The files of blocks of `block_bytes`."""

    def __init__(self, root: Path, block_bytes: int) -> None:
        self._root = root
        self._blocks = root / f"blocks-{block_bytes}"
        self._block_bytes = block_bytes
        self._lock = -1

    def open(self) -> Sequence[Left]:
        """Have the folder to this process alone; return what is in it, the oldest first. Raises: ConfigError."""
        try:
            self._blocks.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_other_sizes()
            return sorted(self._scan(), key=lambda left: left.written_ns)
        except BlockingIOError as error:
            self.close()
            raise ConfigError(
                "storage.options.cache_dir", f"{self._root} is another process's", "name a folder for each process"
            ) from error
        except OSError as error:
            self.close()
            raise ConfigError("storage.options.cache_dir", f"{self._root} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)

    def _remove_other_sizes(self) -> None:
        for path in self._root.glob("blocks-*"):
            if path != self._blocks:
                shutil.rmtree(path, ignore_errors=True)

    def _scan(self) -> Iterator[Left]:
        with os.scandir(self._blocks) as folders:
            for folder in folders:
                if folder.is_dir(follow_symlinks=False):
                    yield from self._scan_folder(folder.path)

    def _scan_folder(self, folder: str) -> Iterator[Left]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, found = _NAME.fullmatch(entry.name), entry.stat(follow_symlinks=False)
                length = found.st_size - _TRAILER.size
                if name is None or not 0 <= length <= self._block_bytes:
                    os.unlink(entry.path)
                    continue
                yield Left(BlockId(name[1], int(name[2])), BlockFile(name[3], length), found.st_mtime_ns)

    def free_bytes(self) -> int:
        """Return how many bytes are free where the folder is."""
        found = os.statvfs(self._blocks)
        return found.f_bavail * found.f_frsize

    def write(self, block: BlockId, data: Sequence[Buffer], object_size: int) -> BlockFile:
        """Keep `data` as that block, in a new file. Raises: OSError; then nothing is left."""
        file = BlockFile(secrets.token_hex(6), sum(map(len, data)))
        path = self._path(block, file)
        try:
            fd = os.open(path, _NEW, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            fd = os.open(path, _NEW, 0o600)
        try:
            with open(fd, "wb", buffering=0) as out:
                for part in (*data, _trailer(data, object_size)):
                    _write_all(out.fileno(), part)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return file

    def read(self, block: BlockId, file: BlockFile, start: int, stop: int) -> bytes:
        """Return bytes of a block that this process has written. Raises: OSError, Torn."""
        fd = os.open(self._path(block, file), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = os.pread(fd, stop - start, start)
        finally:
            os.close(fd)
        if len(found) != stop - start:
            raise Torn
        return found

    def check(self, block: BlockId, file: BlockFile) -> int:
        """Return the size of the object of a left block, all of whose bytes are right. Raises: OSError, Torn."""
        with open(self._path(block, file), "rb", buffering=0) as found:
            whole = found.readall()
        if len(whole) != file.length + _TRAILER.size:
            raise Torn
        data = memoryview(whole)[: file.length]
        size, _, _ = _TRAILER.unpack(whole[file.length :])
        if whole[file.length :] != _trailer([data], size):
            raise Torn
        return int(size)

    def remove(self, files: Sequence[tuple[BlockId, BlockFile]]) -> None:
        """Have these files gone, as far as the disk lets us."""
        for block, file in files:
            with contextlib.suppress(OSError):
                os.unlink(self._path(block, file))

    def _path(self, block: BlockId, file: BlockFile) -> Path:
        return self._blocks / block.digest[:2] / f"{block.digest}-{block.number}-{file.token}"


def _trailer(data: Sequence[Buffer], object_size: int) -> bytes:
    crc = zlib.crc32(object_size.to_bytes(8, "little"))
    for part in data:
        crc = zlib.crc32(part, crc)
    return _TRAILER.pack(object_size, crc, _MARK)


def _write_all(fd: int, data: Buffer) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
