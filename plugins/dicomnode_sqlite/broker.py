"""Messages in one SQLite file, for one process: published by group commit, delivered from memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import msgspec

from dicomnode.errors import Full, PluginError, Unavailable
from dicomnode.model.messages import dead_topic
from dicomnode.ports.broker import Barrier, Broker, Carrier, Delivery, Lag, Message, Overlap, Subscription
from dicomnode.ports.offload import Call, Gatherer, Quickness
from dicomnode.ports.storage import Buffer, FreeSpace
from dicomnode_sqlite.journal import (
    SHIFT,
    Cargo,
    Fold,
    Group,
    Insert,
    Journal,
    Order,
    Read,
    Register,
    Room,
    Row,
    Sure,
    Topic,
    Waiting,
    Withdraw,
)
from dicomnode_sqlite.subscription import SqliteSubscription

T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: the file (default `<data_dir>/broker.sqlite`). `fsync`: whether publishing waits for the disk.

    `loop_below_us`: publishing goes without a thread while that takes fewer microseconds; 0: never.
    `most_bytes`: how long the file may become, but for what was given up; 0: as long as the disk lets it.
    """

    path: str = ""
    fsync: Literal["always", "never"] = "always"
    loop_below_us: int = 150
    most_bytes: int = 0


class _Topic:
    """What this process knows of a topic: `last`: the highest position given; `held`: those not to be delivered yet.

    Messages of an earlier process that lie behind `sure`, up to `left`, may tell of what was never done.
    """

    __slots__ = ("groups", "held", "id", "last", "left", "subscriptions", "sure")

    def __init__(self, number: int, last: int, sure: int) -> None:
        self.id = number
        self.last = self.left = max(last, number << SHIFT)
        self.sure = sure
        self.held: set[int] = set()
        self.groups: dict[str, Group] = {}
        self.subscriptions: dict[str, SqliteSubscription] = {}


# So much may wait beside what the log itself takes: with a worker that stands still it must not grow with objects.
_MOST_LADEN = 1000

_NOTED_EVERY_S = 1.0
_GIVEN_UP = dead_topic("")
_ALMOST_FULL = 64  # with less than such a part of the bound left it is not ready for more

_Kept = list[tuple[_Topic, Delivery]]


class SqliteBroker(Broker, Overlap, Carrier, Barrier, FreeSpace):
    """A file that one thread writes."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        path = Path(options.path) if options.path else data_dir / "broker.sqlite"
        self._path = path
        self._journal = Journal(path, options.fsync, options.most_bytes)
        self._most_bytes = options.most_bytes
        self._noted = 0.0
        self._astray: list[int] = []
        self._writer = Gatherer(self._journal.carry_out, "broker")
        self._quickness = Quickness(options.loop_below_us / 1e6)
        self._topics: dict[str, _Topic] = {}
        self._subscribing = asyncio.Lock()
        self._folding: Call[None] | None = None
        self._closed = True
        self._durable = options.fsync == "always"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._journal.open)
        for name, number, last, sure in self._journal.topics():
            self._topics[name] = _Topic(number, last, sure)
        for topic, name, group in self._journal.groups():
            self._topics[topic].groups[name] = group
        self._writer.start()
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for topic in self._topics.values():
            for subscription in topic.subscriptions.values():
                subscription.end("the broker is closed")
        if self._topics:
            self._writer.put(self._sure())
        await self._writer.close()
        await asyncio.to_thread(self._journal.close)

    async def ping(self) -> None:
        """Return when the file can be written. Raises: Unavailable, Full."""
        await self._order(Withdraw([]))
        if self._most_bytes and await self.free_bytes() < self._most_bytes // _ALMOST_FULL:
            raise Full("sqlite", "the file is as long as most_bytes lets it become")

    async def free_bytes(self) -> int:
        """Return how many bytes more the file may take. Raises: Unavailable."""
        room = await self._order(Room())
        if isinstance(room, int):
            return room
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    async def _order(self, order: Order) -> object:
        if self._closed:
            raise Unavailable("sqlite", "the broker is closed")
        return await self._writer.put(order)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when every one of `messages` that a group wants is in the file, all or none; see Broker."""
        kept, rows = self._number(messages)
        if kept:
            await self._publish(kept, rows, None)

    async def publish_beside(self, messages: Sequence[Message], effect: Awaitable[object]) -> None:
        """Have `messages` in the file and `effect` done, both at once; see Overlap."""
        kept, rows = self._number(messages)
        if kept:
            await self._publish(kept, rows, effect)
        else:
            await effect

    def carries(self, topic: str, group: str) -> bool:
        """Tell whether `group` keeps up with `topic` in this process, and publishing waits for the disk."""
        known = self._topics.get(topic)
        if not self._durable or known is None or group not in known.groups:
            return False
        subscription = known.subscriptions.get(group)
        return subscription is not None and subscription.waiting < _MOST_LADEN

    async def publish_laden(self, messages: Sequence[Message], cargo: Sequence[Buffer]) -> None:
        """Have `messages` in the file, and `cargo` with the first; see Carrier."""
        topic = self._topics.get(messages[0].topic)
        if topic is None or not topic.groups:
            raise Unavailable("sqlite", "nobody reads what would carry the object")
        kept, rows = self._number(messages, b"".join(cargo))
        await self._publish(kept, rows, None)

    async def cargo(self, delivery: Delivery) -> bytes | None:
        """Return what was published with a delivery that is not acknowledged; see Carrier."""
        found = await self._order(Cargo(delivery.position))
        assert found is None or isinstance(found, bytes)
        return found

    def _number(self, messages: Sequence[Message], cargo: bytes | None = None) -> tuple[_Kept, list[Row]]:
        """Give positions to those of `messages` that a group wants, and hold them back."""
        kept: _Kept = []
        rows: list[Row] = []
        now = time.time()
        for message in messages:
            topic = self._topics.get(message.topic)
            if topic is not None and topic.groups:
                topic.last = position = topic.last + 1
                topic.held.add(position)
                kept.append((topic, Delivery(message, position, laden=cargo is not None)))
                rows.append((position, message.key, message.body, now, cargo))
            cargo = None  # it goes with the first
        return kept, rows

    async def _publish(self, kept: _Kept, rows: list[Row], effect: Awaitable[object] | None) -> None:
        try:
            if effect is not None and self._quickness.likely:
                # A quick commit goes behind: two waits for one disk at a time get in each other's way.
                await effect
                effect = None
            # Whoever empties a full file must be able to lay aside what cannot go.
            beyond = all(delivery.message.topic.endswith(_GIVEN_UP) for _, delivery in kept)
            await self._insert(rows, effect, beyond=beyond)
            if self._journal.is_long and (self._folding is None or self._folding.done()):
                self._folding = self._writer.put(Fold())
        finally:
            for topic, delivery in kept:
                topic.held.discard(delivery.position)
        self._deliver(kept)
        if (now := time.monotonic()) - self._noted >= _NOTED_EVERY_S:
            self._noted = now
            self._writer.put(self._sure())

    def _sure(self) -> Sure:
        """Return up to where all is done that was published, so that after a crash less is doubtful."""
        undone = [*self._astray, *(position for topic in self._topics.values() for position in topic.held)]
        lowest = {topic.id: topic.last + 1 for topic in self._topics.values()}
        for position in undone:
            lowest[position >> SHIFT] = min(lowest[position >> SHIFT], position)
        return Sure([(number, position - 1) for number, position in lowest.items()])

    async def _insert(self, rows: list[Row], effect: Awaitable[object] | None, *, beyond: bool) -> None:
        """Have `rows` in the file and `effect` done, at the same time; or neither row, when one of these fails."""
        inserted = self._writer.put_quickly(self._quickness, Insert(rows, beyond))
        try:
            if effect is not None:
                await effect
            await inserted
        except BaseException:
            positions = [row[0] for row in rows]
            try:
                await self._order(Withdraw(positions))
            except PluginError:
                self._astray.extend(positions)  # they come after a restart, as after a crash
            if inserted.done():
                inserted.exception()  # the first error is the one that is told
            raise

    @staticmethod
    def _deliver(kept: _Kept) -> None:
        if len(kept) == 1:
            topic, delivery = kept[0]
            for subscription in topic.subscriptions.values():
                subscription.arrived((delivery,))
            return
        for topic in {id(topic): topic for topic, _ in kept}.values():
            deliveries = [delivery for of, delivery in kept if of is topic]
            for subscription in topic.subscriptions.values():
                subscription.arrived(deliveries)

    async def subscribe(self, topic: str, group: str) -> Subscription:
        """Register `group` on `topic`; an earlier subscription of the group in this process gives nothing more."""
        async with self._subscribing:
            known = self._topics.get(topic)
            if known is None:
                known = _Topic(await self._made(Topic(topic), int), 0, 0)
                self._topics[topic] = known
            earlier = known.subscriptions.pop(group, None)
            if earlier:
                earlier.end("another subscription of the group took over")
            since = min(known.held, default=known.last + 1) - 1
            subscription = SqliteSubscription(topic, known.last, (known.sure, known.left), self._order)
            known.subscriptions[group] = subscription  # from here on it sees what is published
            try:
                registered = await self._made(Register(known.id, group, since), Group)
                known.groups[group] = registered
                waiting = await self._made(Waiting(registered), list)
            except BaseException:
                del known.subscriptions[group]
                raise
            subscription.begin(registered, waiting, known.held)
            return subscription

    async def _made(self, order: Order, kind: type[T]) -> T:
        made = await self._order(order)
        assert isinstance(made, kind)
        return made

    async def lag(self, topic: str, group: str) -> Lag:
        """Return how far `group` is behind on `topic`."""
        known = self._topics.get(topic)
        registered = known.groups.get(group) if known else None
        if known is None or registered is None:
            return Lag(0, 0.0)
        subscription = known.subscriptions.get(group)
        if subscription:
            count, first = subscription.behind()
        else:
            waiting = await self._made(Waiting(registered), list)
            count, first = len(waiting), waiting[0] if waiting else 0
        rows = await self._made(Read(registered, [first]), list) if count else []
        return Lag(count, max(0.0, time.time() - rows[0][3]) if rows else 0.0)

    async def settled(self, topic: str, group: str) -> None:
        """Return when `group` has acknowledged what was published before this call; see Barrier."""
        known = self._topics.get(topic)
        subscription = known.subscriptions.get(group) if known else None
        if subscription is not None and not subscription.is_settled():
            await subscription.settled()


_: type[Broker] = SqliteBroker
