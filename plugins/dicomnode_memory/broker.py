"""Messages in this process's memory: for tests and small demonstrations. They survive a new subscription only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Barrier, Broker, Carrier, Delivery, Lag, Message, Overlap, Subscription
from dicomnode.ports.plugin import NoOptions
from dicomnode.ports.storage import Buffer

_MOST_LADEN = 1000


class _Group:
    """What a group has not acknowledged, by position: the delivery, its number in order of publishing, and the time."""

    def __init__(self) -> None:
        self.unacked: dict[int, tuple[Delivery, int, float]] = {}
        self.cargo: dict[int, bytes] = {}
        self.number = 0
        self.subscription: MemorySubscription | None = None

    def add(self, delivery: Delivery) -> None:
        self.number += 1
        self.unacked[delivery.position] = (delivery, self.number, time.monotonic())
        if self.subscription:
            self.subscription.arrived(delivery)


class MemorySubscription(Subscription):
    """The only subscription of its group; one `take` at a time."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self._ready = [msgspec.structs.replace(delivery, redelivered=True) for delivery, _, _ in group.unacked.values()]
        self._changed = asyncio.Event()
        self._enough = 1
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._closed = ""

    def arrived(self, delivery: Delivery) -> None:
        """Take in what was published."""
        self._ready.append(delivery)
        if len(self._ready) == 1 or len(self._ready) >= self._enough:
            self._changed.set()

    def end(self, reason: str) -> None:
        """Give nothing more; whoever waits is told `reason`."""
        self._closed = reason
        self._changed.set()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def take(self, most: int, linger_s: float = 0.0) -> Sequence[Delivery]:
        """Wait for a message, then up to `linger_s` for more, but not while someone waits; return 1 to `most`."""
        if most < 1:
            raise ValueError("take at least one message")
        self._enough = most
        while not self._ready and not self._closed:
            await self._change()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(linger_s):
                while len(self._ready) < most and not self._waiters and not self._closed:
                    await self._change()
        if self._closed:
            raise Unavailable("memory", self._closed)
        taken, self._ready = self._ready[:most], self._ready[most:]
        return taken

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Never deliver these to the group again."""
        for delivery in deliveries:
            self._group.unacked.pop(delivery.position, None)
            self._group.cargo.pop(delivery.position, None)
        lowest = min((number for _, number, _ in self._group.unacked.values()), default=self._group.number + 1)
        for waiter, number in self._waiters.items():
            if number < lowest and not waiter.done():
                waiter.set_result(None)

    async def settled(self) -> None:
        """Return when all that was published to the group until now is acknowledged."""
        if not self._group.unacked:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = self._group.number
        self._changed.set()
        try:
            await waiter
        finally:
            del self._waiters[waiter]


class MemoryBroker(Broker, Overlap, Carrier, Barrier):
    """Dictionaries of messages."""

    Options = NoOptions

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        self._groups: dict[str, dict[str, _Group]] = {}
        self._positions: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for groups in self._groups.values():
            for group in groups.values():
                if group.subscription:
                    group.subscription.end("the broker is closed")

    async def ping(self) -> None:
        """Return."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Have every one of `messages` delivered."""
        for message in messages:
            self._publish(message)

    def _publish(self, message: Message, cargo: bytes | None = None) -> None:
        position = self._positions[message.topic] = self._positions.get(message.topic, 0) + 1
        for group in self._groups.get(message.topic, {}).values():
            if cargo is not None:
                group.cargo[position] = cargo
            group.add(Delivery(message, position, laden=cargo is not None))

    def carries(self, topic: str, group: str) -> bool:
        """Tell whether `group` has a subscription on `topic`, and is not far behind."""
        known = self._groups.get(topic, {}).get(group)
        return known is not None and known.subscription is not None and len(known.unacked) < _MOST_LADEN

    async def publish_laden(self, messages: Sequence[Message], cargo: Sequence[Buffer]) -> None:
        """Have `messages` delivered; `cargo` is kept as long as the first waits to be acknowledged."""
        first, *others = messages
        if not self._groups.get(first.topic):
            raise Unavailable("memory", "nobody reads what would carry the object")
        self._publish(first, b"".join(cargo))
        await self.publish(others)

    async def cargo(self, delivery: Delivery) -> bytes | None:
        """Return what was published with a delivery that is not acknowledged; see Carrier."""
        groups = self._groups.get(delivery.message.topic, {}).values()
        return next((group.cargo[delivery.position] for group in groups if delivery.position in group.cargo), None)

    async def publish_beside(self, messages: Sequence[Message], effect: Awaitable[object]) -> None:
        """Have `messages` delivered once `effect` has succeeded."""
        await effect
        await self.publish(messages)

    async def subscribe(self, topic: str, group: str) -> Subscription:
        """Register `group` on `topic`; an earlier subscription of the group gives nothing more."""
        known = self._groups.setdefault(topic, {}).setdefault(group, _Group())
        if known.subscription:
            known.subscription.end("another subscription of the group took over")
        known.subscription = MemorySubscription(known)
        return known.subscription

    async def lag(self, topic: str, group: str) -> Lag:
        """Return how far `group` is behind on `topic`."""
        known = self._groups.get(topic, {}).get(group)
        if known is None or not known.unacked:
            return Lag(0, 0.0)
        since = min(since for _, _, since in known.unacked.values())
        return Lag(len(known.unacked), time.monotonic() - since)

    async def settled(self, topic: str, group: str) -> None:
        """Return when `group` has acknowledged what was published before this call; see Barrier."""
        known = self._groups.get(topic, {}).get(group)
        if known and known.subscription:
            await known.subscription.settled()


_: type[Broker] = MemoryBroker
