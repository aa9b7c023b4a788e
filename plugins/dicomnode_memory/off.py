"""No cache: nothing is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec

from dicomnode.ports.cache import Cache


class OffCache(Cache):
    """A cache that forgets at once."""

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return."""

    async def get(self, key: str) -> bytes | None:
        """Return None."""
        return None

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Remember nothing."""

    async def forget(self, key: str) -> None:
        """Remember nothing, as before."""


_: type[Cache] = OffCache
