"""Blocks of objects on this machine's disk, the last used ones, within a bound. Without them reads only take longer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dicomnode.ports.offload import Call, Quickness, Threads
from dicomnode.ports.storage import Buffer
from dicomnode_s3.block_files import BlockFile, BlockId, Folder, Torn

_LOG = logging.getLogger("dicomnode.s3")
_THREADS = 4
_QUICK_S = 150e-6
_QUICK_BYTES = 256 * 1024
_LEAST_CHARGE = 64 * 1024  # what a small block is counted as, so that their number is bounded too
_PAUSE_S = 30.0


class Bounds(msgspec.Struct, frozen=True):
    """How much is kept, in blocks of what size, and how much of the disk stays free."""

    most_bytes: int
    block_bytes: int
    reserve_bytes: int


class _Kept(msgspec.Struct, gc=False):
    file: BlockFile
    checked: bool


class _Object(msgspec.Struct):
    size: int | None  # not known before one of its blocks was looked into
    numbers: list[int]


class BlockCache:
    """The blocks that are kept. Used from the event loop; files are touched in threads, or at once while that is quick.

    `place` tells apart objects that have one key in different buckets.
    """

    def __init__(self, root: Path, place: str, bounds: Bounds) -> None:
        self._folder = Folder(root, bounds.block_bytes)
        self._place = hashlib.sha256(place.encode())
        self._bounds = bounds
        self._threads = Threads(_THREADS, "s3-cache")
        self._quickness = Quickness(_QUICK_S)
        self._kept: OrderedDict[BlockId, _Kept] = OrderedDict()
        self._objects: dict[str, _Object] = {}
        self._used = 0
        self._again_at = 0.0

    async def open(self) -> None:
        """Take over what is there. Raises: ConfigError."""
        self._threads.start()
        try:
            unwanted = [
                (left.block, left.file)
                for left in await self._threads.run(self._folder.open)
                if not self._enter(left.block, _Kept(left.file, checked=False), None)
            ]
            await self._threads.run(self._folder.remove, unwanted + self._evicted(self._bounds.most_bytes))
        except BaseException:
            await self._threads.close()
            self._folder.close()
            raise

    async def close(self) -> None:
        """Let what is being written end, and the folder go."""
        await self._threads.close()
        self._folder.close()

    def digest(self, key: str) -> str:
        """Return what stands for `key` in the names of blocks."""
        made = self._place.copy()
        made.update(b"\0" + key.encode())
        return made.hexdigest()[:40]

    def object_size(self, digest: str) -> int | None:
        """Return the size of an object of which a block was seen, None of any other."""
        found = self._objects.get(digest)
        return found.size if found is not None else None

    async def read(self, block: BlockId, start: int, stop: int) -> bytes | None:
        """Return those bytes of the block, None where it is not kept or they cannot be had."""
        kept = self._kept.get(block)
        if kept is None:
            return None
        try:
            if not kept.checked:
                self._checked(block, kept, await self._threads.run(self._folder.check, block, kept.file))
            stop = min(stop, kept.file.length)
            found = await self._read(block, kept.file, start, stop) if start < stop else b""
        except (OSError, Torn) as error:
            self._lost(block, kept, error)
            return None
        if self._kept.get(block) is kept:
            self._kept.move_to_end(block)
        return found

    def _read(self, block: BlockId, file: BlockFile, start: int, stop: int) -> Call[bytes]:
        if stop - start > _QUICK_BYTES:
            return self._threads.run(self._folder.read, block, file, start, stop)
        return self._threads.run_quickly(self._quickness, self._folder.read, block, file, start, stop)

    async def keep(self, block: BlockId, data: Sequence[Buffer], object_size: int) -> BlockFile | None:
        """Have `data` on the disk as a file that nothing names yet; None where there is no room for it.

        Hand the file to `add` or to `drop`.
        """
        if time.monotonic() < self._again_at:
            return None
        call = self._threads.run(self._write, block, data, object_size)
        try:
            lacking, file = await call
            if lacking > 0:
                await self._threads.run(self._folder.remove, self._evicted(max(0, self._used - lacking)))
        except OSError as error:
            self._again_at = time.monotonic() + _PAUSE_S
            _LOG.warning("s3.cache_failed: %s; nothing more is kept for %d s", error.strerror, _PAUSE_S)
            return None
        except asyncio.CancelledError:
            if call.done() and not call.exception() and (file := call.result()[1]):
                await self.drop(block, file)
            raise
        return file

    def _write(self, block: BlockId, data: Sequence[Buffer], object_size: int) -> tuple[int, BlockFile | None]:
        lacking = self._bounds.reserve_bytes + self._bounds.block_bytes - self._folder.free_bytes()
        return lacking, None if lacking > 0 else self._folder.write(block, data, object_size)

    async def add(self, block: BlockId, file: BlockFile, object_size: int) -> None:
        """Have `file` found as that block; what was used longest ago goes."""
        gone = self._taken([block])
        self._enter(block, _Kept(file, checked=True), object_size)
        gone += self._evicted(self._bounds.most_bytes)
        if gone:
            await self._threads.run(self._folder.remove, gone)

    async def drop(self, block: BlockId, file: BlockFile) -> None:
        """Have a file gone that nothing names."""
        await self._threads.run(self._folder.remove, [(block, file)])

    async def forget(self, digests: Sequence[str]) -> None:
        """Have no block of these objects."""
        known = [(digest, self._objects[digest]) for digest in digests if digest in self._objects]
        gone = self._taken([BlockId(digest, number) for digest, found in known for number in found.numbers])
        if gone:
            await self._threads.run(self._folder.remove, gone)

    def _enter(self, block: BlockId, kept: _Kept, object_size: int | None) -> bool:
        """Have `kept` found as that block, if none is; tell whether it is now."""
        if block in self._kept:
            return False
        self._kept[block] = kept
        self._used += _charge(kept.file.length)
        found = self._objects.setdefault(block.digest, _Object(object_size, []))
        found.size = object_size if found.size is None else found.size
        found.numbers.append(block.number)
        return True

    def _checked(self, block: BlockId, kept: _Kept, object_size: int) -> None:
        kept.checked = True
        if self._kept.get(block) is kept:
            self._objects[block.digest].size = object_size

    def _taken(self, blocks: Sequence[BlockId]) -> list[tuple[BlockId, BlockFile]]:
        """Return the files of those that are kept, which are not any more."""
        taken = []
        for block in blocks:
            kept = self._kept.pop(block, None)
            if kept is None:
                continue
            taken.append((block, kept.file))
            self._used -= _charge(kept.file.length)
            found = self._objects[block.digest]
            found.numbers.remove(block.number)
            if not found.numbers:
                del self._objects[block.digest]
        return taken

    def _evicted(self, most: int) -> list[tuple[BlockId, BlockFile]]:
        """Return the files of what was used longest ago, until no more than `most` is kept."""
        gone: list[tuple[BlockId, BlockFile]] = []
        while self._used > most and self._kept:
            gone += self._taken([next(iter(self._kept))])
        return gone

    def _lost(self, block: BlockId, kept: _Kept, error: Exception) -> None:
        if self._kept.get(block) is not kept:
            return  # evicted or forgotten while it was read
        self._threads.run(self._folder.remove, self._taken([block]))
        if isinstance(error, Torn):
            _LOG.warning("s3.cache_torn: a block was not as it was written; it is read anew")


def _charge(length: int) -> int:
    return max(length, _LEAST_CHARGE)
