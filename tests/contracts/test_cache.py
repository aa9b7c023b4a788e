"""What every cache promises: never an old or a foreign value. That anything is remembered, no cache promises."""

from __future__ import annotations

import asyncio

from dicomnode.ports.cache import Cache


async def test_what_was_put_last_or_nothing(cache: Cache) -> None:
    await cache.put("a", b"1", 60)
    await cache.put("a", b"2", 60)
    await cache.put("b", b"3", 60)
    assert await cache.get("a") in (None, b"2")
    assert await cache.get("b") in (None, b"3")
    assert await cache.get("c") is None


async def test_forgotten_is_forgotten(cache: Cache) -> None:
    await cache.put("a", b"1", 60)
    await cache.forget("a")
    await cache.forget("never there")
    assert await cache.get("a") is None


async def test_its_time_ends(cache: Cache) -> None:
    await cache.put("a", b"1", 0.01)
    await cache.put("b", b"1", 0)
    await asyncio.sleep(0.02)
    assert await cache.get("a") is None
    assert await cache.get("b") is None


async def test_any_bytes(cache: Cache) -> None:
    value = bytes(range(256)) * 1000
    await cache.put("k" * 1000, value, 60)
    assert await cache.get("k" * 1000) in (None, value)


async def test_ping(cache: Cache) -> None:
    await cache.ping()
    assert await cache.get("never put") is None
