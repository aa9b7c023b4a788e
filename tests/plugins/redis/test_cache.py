"""What is peculiar to Redis: a server that goes away and comes back, locks over nodes, limits, secrets."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import ConfigError, Unavailable
from dicomnode_redis.cache import Options, RedisCache
from tests.backends import redis, started
from tests.backends.postgres import free_port

FAR = Path("/nowhere")
STUDY = "wado:default:study:1.2.3:metadata"


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("cache", "redis")


async def until_it_is(true: Any) -> None:
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.02)


async def test_keys_and_times_are_as_given(options: dict[str, Any]) -> None:
    async with RedisCache(Options(**options), FAR) as cache:
        await cache.put(STUDY, b"{}", 7200)
        raw = cache._client
        assert await raw.get(options["prefix"] + STUDY) == b"{}"
        assert 7_190_000 < await raw.pttl(options["prefix"] + STUDY) <= 7_200_000
    async with RedisCache(Options(**options), FAR) as other:
        assert await other.get(STUDY) == b"{}"


async def test_a_value_too_long_is_not_kept_nor_the_older_one(options: dict[str, Any]) -> None:
    async with RedisCache(Options(**options, max_value_mib=1), FAR) as cache:
        await cache.put("a", b"1", 60)
        await cache.put("a", bytes(1024 * 1024 + 1), 60)
        assert await cache.get("a") is None


async def test_a_server_that_is_stopped_and_started(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dicomnode.redis")
    with redis.running(own=True) as server:
        async with RedisCache(Options(url=server.url), FAR) as cache:
            await cache.put("a", b"1", 60)
            server.stop()
            for _ in range(50):
                assert await cache.get("a") is None
                await cache.put("b", b"2", 60)
                await cache.forget("a")
            with pytest.raises(Unavailable):
                await cache.ping()
            server.start()

            async def back() -> bool:
                await cache.put("c", b"3", 60)
                return await cache.get("c") == b"3"

            await until_it_is(back)
            await cache.ping()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["cache.lost", "cache.back"]


async def test_what_was_forgotten_meanwhile_is_so_afterwards(options: dict[str, Any]) -> None:
    async with RedisCache(Options(**options), FAR) as cache:
        await cache.put("a", b"old", 60)
        await cache.put("b", b"old", 60)
        cache._failed(OSError())
        cache._again_at = float("inf")
        await cache.put("a", b"new", 60)
        await cache.forget("b")
        cache._again_at = 0.0
        assert await cache.get("a") is None
        assert await cache.get("b") is None
        await cache.put("a", b"newer", 60)
        assert await cache.get("a") == b"newer"


async def test_without_a_server_a_node_starts() -> None:
    async with RedisCache(Options(url=f"redis://127.0.0.1:{free_port()}"), FAR) as cache:
        assert await cache.get("a") is None
        async with cache.alone("a", 1) as mine:
            assert mine, "work is rather done twice than not at all"
        with pytest.raises(Unavailable):
            await cache.ping()


async def test_wrong_password_and_address() -> None:
    with redis.running("correct horse", own=True) as server:
        for url in (server.url, server.url.replace("//", "//:s3cret@")):
            with pytest.raises(ConfigError, match="refused") as caught:
                async with RedisCache(Options(url=url), FAR):
                    pass
            assert "s3cret" not in str(caught.value) + repr(Options(url=url, password="s3cret"))
        async with RedisCache(Options(url=server.url, password="correct horse"), FAR) as cache:
            await cache.ping()
    with pytest.raises(ConfigError, match="is no address"):
        async with RedisCache(Options(url="nonsense"), FAR):
            pass


async def test_one_alone_of_many(options: dict[str, Any]) -> None:
    async with RedisCache(Options(**options), FAR) as one, RedisCache(Options(**options), FAR) as two:
        inside = 0

        async def enter(cache: RedisCache) -> bool:
            nonlocal inside
            async with cache.alone("lock", 60) as mine:
                inside += mine
                assert inside <= 1
                await asyncio.sleep(0)
                inside -= mine
                return mine

        for _ in range(20):
            told = await asyncio.gather(*(enter(cache) for cache in (one, two) * 4))
            assert any(told)
        async with one.alone("lock", 60) as mine, two.alone("lock", 60) as theirs:
            assert (mine, theirs) == (True, False)


async def test_a_lock_that_ran_out_is_not_taken_from_the_next(options: dict[str, Any]) -> None:
    async with RedisCache(Options(**options), FAR) as one, RedisCache(Options(**options), FAR) as two:
        first = one.alone("lock", 0.05)
        assert await first.__aenter__()
        second = two.alone("lock", 60)

        async def taken() -> bool:
            nonlocal second
            if await second.__aenter__():
                return True
            await second.__aexit__(None, None, None)
            second = two.alone("lock", 60)
            return False

        await until_it_is(taken)
        await first.__aexit__(None, None, None)
        async with one.alone("lock", 60) as mine:
            assert not mine
        await second.__aexit__(None, None, None)


async def test_a_server_that_does_not_answer_holds_up_nobody() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RedisCache(Options(url=f"redis://127.0.0.1:{port}", timeout_s=0.1), FAR) as cache:
            async with asyncio.timeout(20):
                for _ in range(1000):
                    assert await cache.get("a") is None


async def test_a_key_of_another_kind_is_a_miss(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dicomnode.redis")
    async with RedisCache(Options(**options), FAR) as cache:
        await cache._client.rpush(options["prefix"] + "list", "x")
        for _ in range(10):
            assert await cache.get("list") is None
        await cache.put("a", b"1", 60)
        assert await cache.get("a") == b"1"
    assert len(caplog.records) == 1
