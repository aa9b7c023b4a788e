"""Objects in this process's memory: for tests and small demonstrations. They survive nothing."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from dicomnode.errors import Full, NotFound, Unavailable
from dicomnode.ports.storage import Buffer, Deferring, FreeSpace, Storage, StoredObject, check_key, check_prefix

_NAME = "memory"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`capacity_bytes`: how much may be kept; more is refused as Full."""

    capacity_bytes: int = 1024 * 1024 * 1024


class MemoryStorage(Storage, Deferring, FreeSpace):
    """A dictionary of bytes."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._capacity = options.capacity_bytes
        self._objects: dict[str, bytes] = {}
        self._coming: set[str] = set()
        self._used = 0

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return when there is room. Raises: Full."""
        if self._used >= self._capacity:
            raise Full(_NAME, "the capacity is used up")

    async def free_bytes(self) -> int:
        """Return what is left of the capacity."""
        return max(0, self._capacity - self._used)

    async def put(self, key: str, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None = None) -> int:
        """Keep `head` and `rest` under `key`; see Storage."""
        if check_key(key) in self._objects or key in self._coming:
            raise Unavailable(_NAME, "the key is in use already")
        self._coming.add(key)
        taken = 0
        try:
            parts: list[bytes] = []
            for part in head:
                taken += self._take(part, parts)
            if rest is not None:
                async for part in rest:
                    taken += self._take(part, parts)
            self._objects[key] = b"".join(parts)
        except BaseException:
            self._used -= taken
            raise
        finally:
            self._coming.discard(key)
        return taken

    @property
    def defers(self) -> bool:
        """Yes: so that this way is gone in tests."""
        return True

    async def put_soon(self, key: str, head: Sequence[Buffer]) -> int:
        """Keep `head` under `key`; see Deferring."""
        return await self.put(key, head)

    async def settle(self, keys: Sequence[str]) -> None:
        """Return: nothing here gets more durable."""
        for key in keys:
            check_key(key)

    def _take(self, part: Buffer, parts: list[bytes]) -> int:
        copy = bytes(part)
        if self._used + len(copy) > self._capacity:
            raise Full(_NAME, "the capacity is used up")
        self._used += len(copy)
        parts.append(copy)
        return len(copy)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset`; see Storage."""
        found = self._objects.get(check_key(key))
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length are not negative")
        if found is None:
            raise NotFound("there is no such object in the storage")
        return found[offset:] if length is None else found[offset : offset + length]

    async def size(self, key: str) -> int | None:
        """Return the size in bytes of what is under `key`, None where there is nothing."""
        found = self._objects.get(check_key(key))
        return None if found is None else len(found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Have nothing under `keys` any more."""
        for key in keys:
            check_key(key)
        for key in keys:
            self._used -= len(self._objects.pop(key, b""))

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield every object whose key starts with `prefix`."""
        check_prefix(prefix)
        for key, found in sorted(self._objects.items()):
            if key.startswith(prefix):
                yield StoredObject(key, len(found))


_: type[Storage] = MemoryStorage
