"""The role that empties the log on this machine into the broker that is elsewhere. It runs wherever there is a log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from dicomnode.config import OutboxTable
from dicomnode.model.messages import RELAY_GROUP, RELAYED, dead_topic
from dicomnode.ports.broker import Barrier, Broker
from dicomnode.roles.worker import Pace, Worker, subscribed
from dicomnode.services.relay import Relay
from dicomnode.services.watermark import Watermark

_ATTEMPTS = 5
_LONGEST_WAIT_S = 5.0


class Outbox:
    """Hand on each topic that doors publish to, in order; what the broker will never take is laid aside in the log.

    `watermark` is that of the log; it is true from the entering on.
    """

    name = "outbox"
    address = ""
    queues = tuple((name, RELAY_GROUP) for topic in RELAYED for name in (topic, dead_topic(topic)))

    def __init__(self, table: OutboxTable, outbox: Broker, relay: Relay, watermark: Watermark) -> None:
        self._pace = Pace(table.batch, table.linger_s, _ATTEMPTS, _LONGEST_WAIT_S)
        self._outbox = outbox
        self._relay = relay
        self.watermark = watermark
        self._workers: list[Worker] = []

    async def __aenter__(self) -> Self:
        for topic in RELAYED:
            dead = (dead_topic(topic), RELAY_GROUP)
            subscription = await subscribed(self._outbox, (topic, RELAY_GROUP), dead)
            self._workers.append(Worker(self._outbox, subscription, self._relay.hand_on, self._pace, "relay"))
        await self.watermark.look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.clear()

    async def run(self) -> None:
        """Hand on until cancelled."""
        assert self._workers, "enter the role before running it"
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.run())
            group.create_task(self.watermark.watch())
            await asyncio.Event().wait()

    async def flush(self, most_s: float) -> int:
        """Wait until the broker has all that was published before, `most_s` seconds at most; return what is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                if isinstance(self._outbox, Barrier):
                    for topic in RELAYED:
                        await self._outbox.settled(topic, RELAY_GROUP)
        return sum([(await self._outbox.lag(topic, RELAY_GROUP)).messages for topic in RELAYED])
