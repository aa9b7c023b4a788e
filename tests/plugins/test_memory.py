"""What is peculiar to memory: its bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dicomnode.errors import Full
from dicomnode.model.warehouse import OBJECT, AccessGrouping, Grouping, Span
from dicomnode_memory.cache import MemoryCache
from dicomnode_memory.cache import Options as CacheOptions
from dicomnode_memory.off import OffWarehouse
from dicomnode_memory.storage import MemoryStorage, Options
from tests.contracts.rows import object_row


async def test_a_full_storage_keeps_nothing_of_what_it_refuses(tmp_path: Path) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 60
        yield b"x" * 60

    async with MemoryStorage(Options(capacity_bytes=100), tmp_path) as storage:
        await storage.put("a", [b"x" * 50])
        with pytest.raises(Full):
            await storage.put("b", [], stream())
        assert await storage.size("b") is None
        await storage.put("b", [b"x" * 50])
        with pytest.raises(Full):
            await storage.ping()
        await storage.delete(["a"])
        await storage.ping()


async def test_the_cache_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    async with MemoryCache(CacheOptions(max_mib=1), tmp_path) as cache:
        for name in "abc":
            await cache.put(name, name.encode() * 300_000, 60)
        assert await cache.get("a") == b"a" * 300_000
        await cache.put("d", b"d" * 300_000, 60)
        assert [await cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
        await cache.put("large", b"x" * 2_000_000, 60)
        assert await cache.get("large") is None
        assert await cache.get("a") is not None


async def test_where_nothing_is_counted_there_is_nothing(tmp_path: Path) -> None:
    async with OffWarehouse(OffWarehouse.Options(), tmp_path) as warehouse:
        await warehouse.ping()
        await warehouse.record(OBJECT, [object_row()])
        assert set((await warehouse.counts()).values()) == {0}
        assert not await warehouse.holdings(Grouping.DAY, Span(), 10)
        assert not await warehouse.accesses(AccessGrouping.USER, Span(), 10)
        assert [key async for key in warehouse.keys()] == []  # noqa: SIM118 -- no mapping
