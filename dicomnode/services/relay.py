"""Hand on what the doors have left in the log on this machine to the broker that everybody reads from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dicomnode.errors import ConfigError, Unavailable
from dicomnode.model.messages import LOG_QUEUE, RELAY_GROUP, STORAGE_QUEUE, DicomObjectMeta, decode_object_meta
from dicomnode.ports.broker import Barrier, Broker, Carrier, Delivery
from dicomnode.ports.safekeeping import Received, Safekeeping
from dicomnode.ports.storage import Storage

_MOST_DROPPED = 100_000


class Relay:
    """Hand on messages of `outbox` to `broker`; objects they tell of are first seen to be whole in `storage`."""

    def __init__(self, outbox: Broker, broker: Broker, storage: Storage) -> None:
        self._broker = broker
        self._carrier = outbox if isinstance(outbox, Carrier) else None
        self._barrier = outbox if isinstance(outbox, Barrier) else None
        self._safekeeping = Safekeeping(storage)
        self._dropped: set[str] = set()

    async def hand_on(self, deliveries: Sequence[Delivery]) -> None:
        """Have what `deliveries` of one topic say survive in the broker, but for objects that a crash cut short.

        Handing on twice is no harm: who reads there works at least once anyway. Raises: Unavailable, Full: perhaps some
        were handed on. Anything else is the fault of a message, which the broker will never take.
        """
        topic = deliveries[0].message.topic
        if topic == STORAGE_QUEUE:
            deliveries = await self._whole(deliveries)
        elif topic == LOG_QUEUE and any(delivery.doubtful for delivery in deliveries):
            deliveries = await self._not_dropped(deliveries)
        if not deliveries:
            return
        try:
            await self._broker.publish([delivery.message for delivery in deliveries])
        except ConfigError as error:  # no message is at fault, so none may be given up for it
            raise Unavailable("relay", str(error)) from error

    async def _whole(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose objects are kept; what came with its bytes is durable in the storage then."""
        asked = [delivery for delivery in deliveries if delivery.doubtful or delivery.laden]
        if not asked:
            return deliveries
        received = [self._received(delivery) for delivery in asked]
        kept = await self._safekeeping.keep(received)
        dropped = {delivery.position for delivery, whole in zip(asked, kept, strict=True) if not whole}
        if len(self._dropped) < _MOST_DROPPED:
            self._dropped.update(item.meta.file_path for item, whole in zip(received, kept, strict=True) if not whole)
        return [delivery for delivery in deliveries if delivery.position not in dropped]

    async def _not_dropped(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those that tell of no object that was dropped, which is known once the other topic is through."""
        if self._barrier is not None:
            await self._barrier.settled(STORAGE_QUEUE, RELAY_GROUP)
        return [
            delivery
            for delivery in deliveries
            if not delivery.doubtful or _meta(delivery).file_path not in self._dropped
        ]

    def _received(self, delivery: Delivery) -> Received:
        carrier = self._carrier if delivery.laden else None
        return Received(_meta(delivery), delivery.doubtful, partial(carrier.cargo, delivery) if carrier else None)


def _meta(delivery: Delivery) -> DicomObjectMeta:
    return decode_object_meta(delivery.message.body)
