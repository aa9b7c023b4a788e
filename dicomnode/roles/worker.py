"""The loop of every worker: take a batch, make its effect, acknowledge it, and only then take the next.

A backend that is away is waited for. A batch that fails otherwise is halved until the message at fault is found; that
one is tried `attempts` times by itself and then laid aside in `<topic>.dead`, so that it stops nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from dicomnode import log, metrics
from dicomnode.errors import Full, Unavailable
from dicomnode.model.messages import DeadLetter, dead_topic, encode, utc_now
from dicomnode.ports.broker import Broker, Delivery, Message, Subscription

_LOG = log.get("worker")
_FIRST_WAIT_S = 0.1
_LETTERS_AT_ONCE = 100

Handler = Callable[[Sequence[Delivery]], Awaitable[None]]
T = TypeVar("T")


class Unreadable(Exception):
    """Messages of a batch that no other try makes readable, each with its error; all others have been worked on."""

    def __init__(self, messages: Sequence[tuple[Delivery, Exception]]) -> None:
        super().__init__(f"{len(messages)} unreadable")
        self.messages = messages

    @classmethod
    def check(cls, messages: Sequence[tuple[Delivery, Exception]]) -> None:
        """Raise what a handler ends with where there are `messages` that it could not read."""
        if messages:
            raise cls(messages)


def read_all(
    deliveries: Sequence[Delivery], read: Callable[[Delivery], T]
) -> tuple[list[T], list[tuple[Delivery, Exception]]]:
    """Return what `read` makes of each delivery, and those that it finds unreadable (it raises ValueError)."""
    found: list[T] = []
    unreadable: list[tuple[Delivery, Exception]] = []
    for delivery in deliveries:
        try:
            found.append(read(delivery))
        except (ValueError, RecursionError) as error:
            unreadable.append((delivery, error))
    return found, unreadable


async def subscribed(broker: Broker, work: tuple[str, str], dead: tuple[str, str]) -> Subscription:
    """Return the subscription of `work`, a topic with its group; what its worker gives up is kept for `dead`."""
    # A broker may drop what nobody reads; what was given up must wait for a human.
    await broker.subscribe(*dead)
    return await broker.subscribe(*work)


class Pace(msgspec.Struct, frozen=True):
    """How much a worker takes at once (messages), how long it waits for more (s), how often it tries.

    `longest_wait_s`: how long it waits at most, between two tries, for a backend that is away.
    """

    batch: int
    linger_s: float
    attempts: int
    longest_wait_s: float = 30.0


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
        except Unreadable as error:
            await self._lay_aside_all(error.messages)
        except Exception as error:  # noqa: BLE001 -- one poison message must not stop the others
            if len(deliveries) == 1:
                await self._insist(deliveries[0], error)
                return
            middle = len(deliveries) // 2
            for half in (deliveries[:middle], deliveries[middle:]):
                await self._work(half)

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
                wait_s = min(2 * wait_s, self._pace.longest_wait_s)
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
        await self._publish([_letter(delivery, error, self._pace.attempts, first)])
        _LOG.error("message.dead", topic=delivery.message.topic, position=delivery.position, exc_info=error)

    async def _lay_aside_all(self, messages: Sequence[tuple[Delivery, Exception]]) -> None:
        now = utc_now()
        for start in range(0, len(messages), _LETTERS_AT_ONCE):
            some = messages[start : start + _LETTERS_AT_ONCE]
            await self._publish([_letter(delivery, error, 1, now) for delivery, error in some])
        delivery, error = messages[0]
        _LOG.error(
            "messages.dead",
            topic=delivery.message.topic,
            first_position=delivery.position,
            messages=len(messages),
            error=type(error).__name__,
        )

    async def _publish(self, letters: Sequence[DeadLetter]) -> None:
        messages = [Message(dead_topic(letter.topic), letter.key, encode(letter)) for letter in letters]
        await self._patiently(lambda: self._broker.publish(messages))
        metrics.DEAD_LETTERS.labels(letters[0].topic).inc(len(letters))


def _letter(delivery: Delivery, error: Exception, attempts: int, first: str) -> DeadLetter:
    message = delivery.message
    return DeadLetter(
        topic=message.topic,
        key=message.key,
        body=message.body.decode("utf-8", "backslashreplace"),
        error=f"{type(error).__name__}: {error}",
        attempts=attempts,
        first_time=first,
        last_time=utc_now(),
    )
