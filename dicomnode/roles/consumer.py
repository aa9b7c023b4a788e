"""The role that indexes what the doors have taken in, and tells the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

from dicomnode.config import ConsumerTable
from dicomnode.model.messages import INDEXING_GROUP, STORAGE_QUEUE, dead_topic, decode_object_meta
from dicomnode.ports.broker import Broker, Carrier, Delivery
from dicomnode.ports.safekeeping import Received
from dicomnode.roles.worker import Pace, Unreadable, Worker, read_all, subscribed
from dicomnode.services.announce import Announce
from dicomnode.services.index import Index


class Consumer:
    """Read `storage_queue`, index, announce. `queues`: what it answers for, each topic with the group that reads it."""

    name = "consumer"
    address = ""
    queues = ((STORAGE_QUEUE, INDEXING_GROUP), (dead_topic(STORAGE_QUEUE), "operator"))

    def __init__(self, table: ConsumerTable, broker: Broker, index: Index, announce: Announce | None = None) -> None:
        self._pace = Pace(table.batch, table.linger_s, table.attempts)
        self._broker = broker
        self._carrier = broker if isinstance(broker, Carrier) else None
        self._index = index
        self._announce = announce
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        subscription = await subscribed(self._broker, *self.queues)
        self._worker = Worker(self._broker, subscription, self._take_in, self._pace, "index")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker = None

    async def run(self) -> None:
        """Index until cancelled."""
        assert self._worker is not None, "enter the role before running it"
        await self._worker.run()

    async def _take_in(self, deliveries: Sequence[Delivery]) -> None:
        received, unreadable = read_all(deliveries, self._received)
        fates = await self._index.take_in(received)
        if self._announce is not None:
            await self._announce.tell([each.meta for each in received], fates)
        Unreadable.check(unreadable)

    def _received(self, delivery: Delivery) -> Received:
        carrier = self._carrier if delivery.laden else None
        return Received(
            decode_object_meta(delivery.message.body),
            delivery.doubtful,
            partial(carrier.cargo, delivery) if carrier else None,
        )
