"""How objects get out of the bucket: in ranges, block by block where blocks are kept on this machine.

However many ask for a block at a time, it is fetched once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import msgspec
import obstore

from dicomnode.errors import Unavailable
from dicomnode.ports.storage import Buffer
from dicomnode_s3.block_cache import BlockCache
from dicomnode_s3.block_files import BlockFile, BlockId
from dicomnode_s3.calls import Calls
from dicomnode_s3.failures import DRIVER, NAME, is_past_the_end
from dicomnode_s3.place import ObjectStore

_PIECE_BYTES = 8 * 1024 * 1024
_AT_ONCE = 8


class Found(msgspec.Struct, frozen=True):
    """Bytes of an object, and its size."""

    data: memoryview
    size: int


class Reader:
    """Reads ranges of objects, each with requests of its own."""

    def __init__(self, store: ObjectStore, calls: Calls) -> None:
        self._store = store
        self._calls = calls

    async def read(self, key: str, offset: int, length: int | None) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end. Raises: NotFound, Unavailable."""
        if length == 0:
            await self.size(key)
            return b""
        first = await self.fetch(key, offset, min(length or _PIECE_BYTES, _PIECE_BYTES))
        end = first.size if length is None else min(first.size, offset + length)
        starts = range(offset + len(first.data), end, _PIECE_BYTES)
        if not starts:
            return bytes(first.data)
        pieces = [first.data]
        for few in _groups(starts):
            found = await asyncio.gather(*(self.fetch(key, at, min(_PIECE_BYTES, end - at)) for at in few))
            pieces.extend(piece.data for piece in found)
        return b"".join(pieces)

    async def fetch(self, key: str, offset: int, length: int) -> Found:
        """Return that range from the bucket; behind the end nothing, with size `offset`.

        Raises: NotFound, Unavailable.
        """
        return await self._calls.make(lambda: self._fetch(key, offset, length))

    async def _fetch(self, key: str, offset: int, length: int) -> Found:
        try:
            answer = await obstore.get_async(self._store, key, options={"range": (offset, offset + length)})
            data = memoryview(await answer.bytes_async())
        except DRIVER as error:
            if is_past_the_end(error):
                return Found(memoryview(b""), offset)
            raise
        size = int(answer.meta["size"])
        if len(data) != min(length, size - offset):
            raise Unavailable(NAME, "the server sent less than it promised")
        return Found(data, size)

    async def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises: NotFound, Unavailable."""
        found: Any = await self._calls.make(lambda: obstore.head_async(self._store, key))
        return int(found["size"])


class _Flight(msgspec.Struct, eq=False):
    """A block on its way; `wanted` until its object is deleted."""

    task: asyncio.Task[Found] | None = None
    wanted: bool = True


class CachedReader:
    """Reads ranges of objects from blocks that are kept here, which are fetched when they are first asked for."""

    def __init__(self, reader: Reader, cache: BlockCache, block_bytes: int) -> None:
        self._reader = reader
        self._cache = cache
        self._block_bytes = block_bytes
        self._flights: dict[BlockId, _Flight] = {}
        self._landing: set[asyncio.Task[Found]] = set()

    async def close(self) -> None:
        """Wait for what is on its way."""
        while self._landing:
            await asyncio.wait(self._landing)

    async def read(self, key: str, offset: int, length: int | None) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end. Raises: NotFound, Unavailable."""
        digest = self._cache.digest(key)
        number = offset // self._block_bytes
        end = offset + length if length is not None else None
        first, size = await self._part(key, BlockId(digest, number), offset, end)
        end = size if end is None else min(size, end)
        numbers = range(number + 1, -(-end // self._block_bytes))
        if not numbers:
            return bytes(first)
        pieces = [first]
        for few in _groups(numbers):
            found = await asyncio.gather(*(self._part(key, BlockId(digest, each), offset, end) for each in few))
            pieces += [part for part, _ in found]
        return b"".join(pieces)

    async def _part(self, key: str, block: BlockId, start: int, end: int | None) -> tuple[Buffer, int]:
        """Return what of the range lies within the block, and the object's size."""
        at = block.number * self._block_bytes
        start = max(start - at, 0)
        stop = self._block_bytes if end is None else min(end - at, self._block_bytes)
        size = self._cache.object_size(block.digest)
        kept = await self._cache.read(block, start, stop)
        size = self._cache.object_size(block.digest) if size is None else size
        if kept is not None and size is not None:
            return kept, size
        found = await self._block(key, block)
        return found.data[start:stop], found.size

    async def _block(self, key: str, block: BlockId) -> Found:
        flight = self._flights.get(block)
        if flight is None:
            flight = self._flights[block] = _Flight()
            flight.task = asyncio.create_task(self._fetch(key, block, flight))
            self._landing.add(flight.task)
            flight.task.add_done_callback(self._landed)
        assert flight.task is not None
        return await asyncio.shield(flight.task)

    def _landed(self, task: asyncio.Task[Found]) -> None:
        self._landing.discard(task)
        if not task.cancelled():
            task.exception()

    async def _fetch(self, key: str, block: BlockId, flight: _Flight) -> Found:
        try:
            found = await self._reader.fetch(key, block.number * self._block_bytes, self._block_bytes)
            if found.data:
                await self._keep(block, [found.data], found.size, flight)
        finally:
            if self._flights.get(block) is flight:
                del self._flights[block]
        return found

    async def _keep(self, block: BlockId, data: Sequence[Buffer], size: int, flight: _Flight) -> None:
        file = await self._cache.keep(block, data, size)
        if file is None:
            return
        if flight.wanted:
            await self._cache.add(block, file, size)
        else:
            await self._cache.drop(block, file)

    async def putting(self, key: str, parts: Sequence[Buffer], put: Coroutine[Any, Any, int]) -> int:
        """Return what `put` does, which puts `parts`, with their blocks kept here as well once it has succeeded."""
        digest, size = self._cache.digest(key), sum(map(len, parts))
        blocks = [BlockId(digest, number) for number in range(-(-size // self._block_bytes))]
        keeping = [self._cache.keep(block, self._within(parts, block.number), size) for block in blocks]
        done, *files = await asyncio.gather(put, *keeping, return_exceptions=True)
        for block, file in zip(blocks, files, strict=True):
            if isinstance(file, BlockFile):
                await (self._cache.drop(block, file) if done != size else self._cache.add(block, file, size))
        if isinstance(done, BaseException):
            raise done
        return size

    def _within(self, parts: Sequence[Buffer], number: int) -> Sequence[memoryview]:
        """Return what of `parts` lies within the block of that number."""
        start, found = -number * self._block_bytes, []
        for part in parts:
            view = memoryview(part).cast("B")
            found.append(view[max(-start, 0) : max(self._block_bytes - start, 0)])
            start += len(view)
        return [view for view in found if view]

    async def forget(self, keys: Iterable[str]) -> None:
        """Have nothing of these objects kept, also not what is on its way."""
        digests = {self._cache.digest(key) for key in keys}
        for block in [block for block in self._flights if block.digest in digests]:
            self._flights.pop(block).wanted = False
        await self._cache.forget(list(digests))


def _groups(numbers: range) -> Iterable[range]:
    return (numbers[at : at + _AT_ONCE] for at in range(0, len(numbers), _AT_ONCE))
