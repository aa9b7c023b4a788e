"""Objects in a bucket: of S3 or what speaks its protocol, of Google, of Azure. What was read stays near for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import obstore

from dicomnode.errors import NotFound
from dicomnode.ports.storage import Buffer, Storage, StoredObject, check_key, check_prefix
from dicomnode_s3.block_cache import BlockCache, Bounds
from dicomnode_s3.calls import Calls
from dicomnode_s3.failures import DRIVER, is_absent, told_at_start
from dicomnode_s3.place import ObjectStore, Options, connect, connect_to_server, place_of
from dicomnode_s3.reading import CachedReader, Reader
from dicomnode_s3.sending import Sender

_BATCH = 1000
_NEVER_THERE = "no.such.object"  # asked for to see whether the bucket is


class S3Storage(Storage):
    """A bucket. An object is one of its objects, under the same key behind the prefix."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._cache_dir = Path(options.cache_dir) if options.cache_dir else data_dir / "s3-cache"
        self._calls = Calls(options.connections)
        self._cached: CachedReader | None = None
        self._cache: BlockCache | None = None

    async def __aenter__(self) -> Self:
        options = self._options
        self._store: ObjectStore = await asyncio.to_thread(connect, options)
        if options.create_bucket and place_of(options).provider == "s3":
            await self._create_bucket()
        try:
            await self._calls.make_to_its_end(self._ask)
        except DRIVER as error:
            raise told_at_start(error) from error
        self._reader = Reader(self._store, self._calls)
        if options.cache_bytes > 0:
            bounds = Bounds(options.cache_bytes, max(1, options.cache_block_bytes), options.cache_reserve_bytes)
            self._cache = BlockCache(self._cache_dir, f"{options.endpoint} {options.url}", bounds)
            await self._cache.open()
            self._cached = CachedReader(self._reader, self._cache, bounds.block_bytes)
        self._sender = Sender(self._store, self._calls, max(5 * 1024 * 1024, options.part_bytes))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cached is not None:
            await self._cached.close()
        await self._calls.close()
        if self._cache is not None:
            await self._cache.close()

    async def _create_bucket(self) -> None:
        """Have the bucket made; whether it is there is seen when it is asked."""
        server, options = connect_to_server(self._options), self._options
        where = f"<LocationConstraint>{options.region}</LocationConstraint>"
        body = b""
        if options.region not in ("", "us-east-1"):
            body = f"<CreateBucketConfiguration>{where}</CreateBucketConfiguration>".encode()
        try:
            await self._calls.make_to_its_end(
                lambda: obstore.put_async(server, place_of(options).bucket, body, use_multipart=False)
            )
        except DRIVER:
            return  # there already, or made without what the driver expects of an object, or the next request tells

    async def _ask(self) -> None:
        try:
            await obstore.get_async(self._store, _NEVER_THERE)
        except DRIVER as error:
            if not is_absent(error):
                raise

    async def ping(self) -> None:
        """Return when the bucket can be read. Raises: Unavailable."""
        await self._calls.make(self._ask)

    async def put(self, key: str, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None = None) -> int:
        """Keep `head` and `rest` under `key`; see Storage."""
        check_key(key)
        if rest is None and self._options.write_through and self._cached is not None:
            return await self._cached.putting(key, head, self._sender.put(key, head, None))
        return await self._sender.put(key, head, rest)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset`; see Storage. What was deleted elsewhere may still be kept here."""
        check_key(key)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length are not negative")
        return await (self._cached or self._reader).read(key, offset, length)

    async def size(self, key: str) -> int | None:
        """Return the size in bytes of what is under `key`, None where there is nothing. Raises: Unavailable."""
        check_key(key)
        try:
            return await self._reader.size(key)
        except NotFound:
            return None

    async def delete(self, keys: Sequence[str]) -> None:
        """Have nothing under `keys` any more. Raises: Unavailable."""
        for key in keys:
            check_key(key)
        once = list(dict.fromkeys(keys))
        for start in range(0, len(once), _BATCH):
            await self._delete(once[start : start + _BATCH])

    async def _delete(self, keys: Sequence[str]) -> None:
        if self._cached is not None:
            await self._cached.forget(keys)
        await self._calls.make(lambda: self._delete_there(keys))
        if self._cached is not None:
            await self._cached.forget(keys)  # what was read while they went

    async def _delete_there(self, keys: Sequence[str]) -> None:
        try:
            await obstore.delete_async(self._store, keys)
        except FileNotFoundError as error:  # Google and Azure say so of a single key, where S3 does not mind
            if not is_absent(error):
                raise
            for key in keys:
                await self._delete_one(key)

    async def _delete_one(self, key: str) -> None:
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError as error:
            if not is_absent(error):
                raise

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield every object whose key starts with `prefix` and is one. Raises: Unavailable."""
        found = obstore.list(self._store, check_prefix(prefix) or None, chunk_size=_BATCH)
        while batch := await self._calls.make(lambda: _some(found)):
            for each in batch:
                if _is_key(each["path"]):
                    yield StoredObject(each["path"], each["size"])


async def _some(found: Any) -> Sequence[Any]:
    try:
        batch: Sequence[Any] = await anext(found)
    except StopAsyncIteration:
        return ()
    return batch


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except ValueError:
        return False
    return True


_: type[Storage] = S3Storage
