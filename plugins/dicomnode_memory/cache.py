"""Answers in this process's memory: the last used ones, within a number of bytes, each until its time is over."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import Self

import msgspec

from dicomnode.ports.cache import Cache

_OVERHEAD = 200  # bytes an entry costs beside its key and value, roughly


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`max_mib`: how much is remembered, in MiB."""

    max_mib: int = 256


class MemoryCache(Cache):
    """An ordered dictionary, least recently used first."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._most = options.max_mib * 1024 * 1024
        self._held: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._used = 0

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return."""

    async def get(self, key: str) -> bytes | None:
        """Return what was last put under `key`, if it is still there."""
        found = self._held.get(key)
        if found is None:
            return None
        value, until = found
        if time.monotonic() >= until:
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Remember `value` for at most `ttl_s` seconds; what is larger than the whole cache is not."""
        self._drop(key)
        cost = _cost(key, value)
        if ttl_s <= 0 or cost > self._most:
            return
        self._held[key] = (value, time.monotonic() + ttl_s)
        self._used += cost
        while self._used > self._most:
            self._drop(next(iter(self._held)))

    async def forget(self, key: str) -> None:
        """Remember nothing under `key`."""
        self._drop(key)

    def _drop(self, key: str) -> None:
        found = self._held.pop(key, None)
        if found is not None:
            self._used -= _cost(key, found[0])


def _cost(key: str, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD


_: type[Cache] = MemoryCache
