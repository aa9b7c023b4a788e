"""A broker elsewhere, played in memory: it can be away, and refuse for ever what is too long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from dicomnode.errors import BadRequest, ConfigError, Unavailable
from dicomnode.ports.broker import Broker, Lag, Message, Remote, Subscription
from dicomnode.ports.plugin import NoOptions
from dicomnode_memory.broker import MemoryBroker

LONGEST = 1_000_000


class DistantBroker(Broker, Remote):
    """`away`: nobody answers. `forbidding`: we may not write there."""

    Options = NoOptions

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        self.behind = MemoryBroker(options, data_dir)
        self.away = False
        self.forbidding = False
        self.asked = 0

    async def __aenter__(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        if self.away:
            raise Unavailable("distant", "nobody answers")

    async def ping(self) -> None:
        self._check()

    async def publish(self, messages: Sequence[Message]) -> None:
        self.asked += 1
        self._check()
        if self.forbidding:
            raise ConfigError("broker.options.url", "this user may not write there")
        if any(len(message.body) > LONGEST for message in messages):
            raise BadRequest("the message is too long")
        await self.behind.publish(messages)

    async def subscribe(self, topic: str, group: str) -> Subscription:
        self._check()
        return await self.behind.subscribe(topic, group)

    async def lag(self, topic: str, group: str) -> Lag:
        self._check()
        return await self.behind.lag(topic, group)


def distant(folder: Path) -> DistantBroker:
    return DistantBroker(NoOptions(), folder)
