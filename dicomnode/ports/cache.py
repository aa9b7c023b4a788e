"""The port for answers that are dear to make and cheap to make again."""

from __future__ import annotations

from abc import abstractmethod

from dicomnode.ports.plugin import Plugin


class Cache(Plugin):
    """Remember values for a while. Anything may be forgotten at any time; nothing here is the only copy."""

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """Return what was last put under `key`, if it is still there. A cache that is away remembers nothing."""

    @abstractmethod
    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Remember `value` for at most `ttl_s` seconds."""

    @abstractmethod
    async def forget(self, key: str) -> None:
        """Remember nothing under `key`."""
