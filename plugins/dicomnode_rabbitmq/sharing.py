"""How many processes read for a group: each is a consumer of a queue into which nobody ever puts anything."""

from __future__ import annotations

import asyncio

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from dicomnode_rabbitmq.connecting import Link, asking


class RollCall:
    """One process's place among those that read for a group; the server has counted those who are gone out."""

    def __init__(self, link: Link, queue: str) -> None:
        self._link = link
        self._queue = queue
        self._channel: Channel | None = None

    async def count(self) -> int:
        """Return how many there are, with this one. Raises: ConfigError, Unavailable."""
        with asking():
            async with asyncio.timeout(self._link.timeout_s):
                if self._channel is None or self._channel.is_closed:
                    self._channel = await self._link.channel()
                    await self._declare(self._channel)
                    await self._channel.basic_consume(self._queue, _nothing)
                return await self._declare(self._channel)

    async def _declare(self, channel: Channel) -> int:
        answer = await channel.queue_declare(
            self._queue, durable=True, auto_delete=True, arguments={"x-queue-type": "classic"}
        )
        return answer.consumer_count or 0

    async def leave(self) -> None:
        """Be counted no more. Raises: Unavailable."""
        if self._channel is not None:
            with asking():
                async with asyncio.timeout(1.0):
                    await self._channel.close()


async def _nothing(message: DeliveredMessage) -> None:
    """Take what nobody sends."""
