"""The loop of every worker: take a batch, make its effect, acknowledge it, and only then take the next.

A backend that is away is waited for. A message that fails otherwise is tried `attempts` times by itself and then laid
aside in `<topic>.dead`, so that it stops nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from dicomnode import log, metrics
from dicomnode.errors import Full, Unavailable
from dicomnode.model.messages import DeadLetter, dead_topic, encode, utc_now
from dicomnode.ports.broker import Broker, Delivery, Message, Subscription

_LOG = log.get("worker")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 30.0

Handler = Callable[[Sequence[Delivery]], Awaitable[None]]


class Pace(msgspec.Struct, frozen=True):
    """How much a worker takes at once (messages), how long it waits for more (s), how often it tries."""

    batch: int
    linger_s: float
    attempts: int


class Worker:
    """Work on what a subscription delivers, by `handle`, which is measured as `service`."""

    def __init__(self, broker: Broker, subscription: Subscription, handle: Handler, pace: Pace, service: str) -> None:
        self._broker = broker
        self._subscription = subscription
        self._handle = handle
        self._pace = pace
        self._service = service

    async def run(self) -> None:
        """Work until cancelled; what is not acknowledged then comes again."""
        while True:
            deliveries = await self._subscription.take(self._pace.batch, self._pace.linger_s)
            await self._work(deliveries)
            await self._patiently(lambda deliveries=deliveries: self._subscription.ack(deliveries))  # type: ignore[misc]

    async def _work(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self._patiently(lambda: self._measured(deliveries))
        except Exception as error:  # noqa: BLE001 -- one poison message must not stop the others
            if len(deliveries) == 1:
                await self._insist(deliveries[0], error)
                return
            for delivery in deliveries:
                await self._work((delivery,))

    async def _measured(self, deliveries: Sequence[Delivery]) -> None:
        with metrics.handling(self._service):
            await self._handle(deliveries)

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run `step` until the backends let it succeed."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                await step()
            except (Unavailable, Full) as error:
                _LOG.warning("batch.delayed", error=str(error), wait_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                return

    async def _insist(self, delivery: Delivery, error: Exception) -> None:
        """Try a message again that failed once; lay it aside when it goes on failing."""
        first = utc_now()
        for attempt in range(2, self._pace.attempts + 1):
            await asyncio.sleep(_FIRST_WAIT_S * 2 ** (attempt - 2))
            try:
                await self._patiently(lambda: self._measured((delivery,)))
            except Exception as again:  # noqa: BLE001 -- as above
                error = again
            else:
                return
        await self._lay_aside(delivery, error, first)

    async def _lay_aside(self, delivery: Delivery, error: Exception, first: str) -> None:
        message = delivery.message
        letter = DeadLetter(
            topic=message.topic,
            key=message.key,
            body=message.body.decode("utf-8", "backslashreplace"),
            error=f"{type(error).__name__}: {error}",
            attempts=self._pace.attempts,
            first_time=first,
            last_time=utc_now(),
        )
        await self._patiently(
            lambda: self._broker.publish((Message(dead_topic(message.topic), message.key, encode(letter)),))
        )
        metrics.DEAD_LETTERS.labels(message.topic).inc()
        _LOG.error("message.dead", topic=message.topic, position=delivery.position, exc_info=error)
