"""Answers in Redis or Valkey, shared by every node that uses it. A node works without it, more slowly, and says so."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from dicomnode.errors import ConfigError, Unavailable
from dicomnode.ports.cache import Cache

_LOG = logging.getLogger("dicomnode.redis")
T = TypeVar("T")
_NAME = "redis"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_MOST_OWED = 10_000
_REFUSALS_TOLD_S = 60.0
_AWAY = (RedisError, OSError, TimeoutError)
# Only who holds a lock lets it go: it may have run out, and be another's by now.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: redis://user:password@host:6379/0, rediss:// for TLS (?ssl_ca_certs=FILE), unix://PATH.

    `password`: where the url has none. `prefix` stands before every key. `max_value_mib`: a longer value is not kept.
    `timeout_s`: how long a request may wait for the cache. `connections`: at most.
    """

    url: str = "redis://localhost:6379/0"
    password: str = ""
    prefix: str = ""
    max_value_mib: int = 16
    timeout_s: float = 1.0
    connections: int = 16

    def __repr__(self) -> str:
        return f"Options(prefix={self.prefix!r})"  # the rest may hold secrets


class RedisCache(Cache):
    """A server's keys. While it is away nothing is remembered; what was to be forgotten is so when it is back.

    After a failure the server is left alone for a while, so that no request waits for it in vain.
    """

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._client: Any = None
        self._up = True
        self._pause_s = _FIRST_PAUSE_S
        self._again_at = 0.0
        self._told_at = float("-inf")
        self._owed: set[str] = set()

    async def __aenter__(self) -> Self:
        options = self._options
        try:
            pool = BlockingConnectionPool.from_url(
                options.url,
                max_connections=max(1, options.connections),
                timeout=options.timeout_s,
                socket_timeout=options.timeout_s,
                socket_connect_timeout=options.timeout_s,
                retry=Retry(NoBackoff(), 1),  # a connection that was idle while the server was started anew
                **({"password": options.password} if options.password else {}),
            )
        except ValueError as error:
            raise ConfigError("cache.options.url", "is no address of Redis", "redis://host:6379/0") from error
        self._client = Redis(connection_pool=pool)
        try:
            await self._within(self._client.ping())
        except (AuthenticationError, AuthorizationError) as error:
            await self._close()
            raise ConfigError("cache.options.url", "the server refused the user or the password") from error
        except _AWAY as error:
            self._failed(error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            await self._within(self._client.aclose())
            await self._within(self._client.connection_pool.aclose())
        except _AWAY:
            return

    async def ping(self) -> None:
        """Return when the server answers. Raises: Unavailable."""
        try:
            await self._within(self._client.ping())
            await self._pay()
        except _AWAY as error:
            self._failed(error)
            raise Unavailable(_NAME, f"{type(error).__name__}; answers are made anew meanwhile") from error
        self._worked()

    async def get(self, key: str) -> bytes | None:
        """Return what was last put under `key`, if it is still there and the server answers in time."""
        found: bytes | None = await self._tried(lambda: self._client.get(self._key(key)), None)
        return None if key in self._owed else found

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Remember `value` for at most `ttl_s` seconds; what is longer than `max_value_mib` is not."""
        if ttl_s <= 0 or len(value) > self._options.max_value_mib * 1024 * 1024:
            await self.forget(key)
            return
        milliseconds = max(1, int(ttl_s * 1000))
        if await self._tried(lambda: self._client.set(self._key(key), value, px=milliseconds), None) is None:
            self._owe(key)

    async def forget(self, key: str) -> None:
        """Remember nothing under `key`; while the server is away, from when it is back."""
        if await self._tried(lambda: self._client.delete(self._key(key)), None) is None:
            self._owe(key)

    @asynccontextmanager
    async def alone(self, key: str, ttl_s: float) -> AsyncIterator[bool]:
        """Tell whether this is the one holder of `key`, of all nodes, to the end of the block or for `ttl_s` seconds.

        While the server is away everyone is: work is then done more than once, and never not at all.
        """
        token = secrets.token_hex(16)
        name = self._key(key)
        milliseconds = max(1, int(ttl_s * 1000))
        # The server's answer is None where the key is there already.
        answer = await self._tried(
            lambda: self._answer(self._client.set(name, token, nx=True, px=milliseconds)), (None, False)
        )
        held, answered = answer
        try:
            yield bool(held) or not answered
        finally:
            if held:
                await self._tried(lambda: self._client.eval(_RELEASE, 1, name, token), None)

    async def _answer(self, command: Awaitable[T]) -> tuple[T | None, bool]:
        return await command, True

    async def _tried(self, command: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return what the server answers, `otherwise` while it is away."""
        if time.monotonic() < self._again_at:
            return otherwise
        try:
            if self._owed:
                await self._within(self._pay())
            result = await self._within(command())
        except ResponseError as error:  # it is there and does not want to: out of memory, a key of another kind
            self._refused(error)
            return otherwise
        except _AWAY as error:
            self._failed(error)
            return otherwise
        self._worked()
        return result

    async def _within(self, command: Awaitable[T]) -> T:
        async with asyncio.timeout(self._options.timeout_s):
            return await command

    def _key(self, key: str) -> str:
        return self._options.prefix + key

    def _owe(self, key: str) -> None:
        """Have `key` removed when the server is back: it may hold an older value. Within bounds; then its time ends."""
        if len(self._owed) < _MOST_OWED:
            self._owed.add(key)

    async def _pay(self) -> None:
        owed = list(self._owed)
        if owed:
            await self._client.delete(*map(self._key, owed))
            self._owed.difference_update(owed)

    def _failed(self, error: Exception) -> None:
        self._again_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if self._up:
            self._up = False
            _LOG.warning("cache.lost: %s; answers are made anew until it is back", type(error).__name__)

    def _worked(self) -> None:
        self._again_at, self._pause_s = 0.0, _FIRST_PAUSE_S
        if not self._up:
            self._up = True
            _LOG.warning("cache.back")

    def _refused(self, error: Exception) -> None:
        if time.monotonic() - self._told_at > _REFUSALS_TOLD_S:
            self._told_at = time.monotonic()
            _LOG.warning("cache.refused: %s", type(error).__name__)


_: type[Cache] = RedisCache
