"""How topics and groups lie on the server: an exchange for each topic, and for each group of it some queues.

A key belongs to one of BUCKETS, which is the routing key, and each bucket to one queue of a group. So whoever publishes
needs not know into how many queues a group is split. That stands on the server, in the name of one more exchange, which
is there for nothing else: a group keeps as many queues as it was made with.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from aio_pika.exceptions import ChannelNotFoundEntity

from dicomnode.model.messages import dead_topic
from dicomnode_rabbitmq.connecting import Link

BUCKETS = 24
PARTITIONS = tuple(number for number in range(1, BUCKETS + 1) if BUCKETS % number == 0)  # each has as many buckets
_WITHOUT_LIMIT = (4, 0)  # from this version on a message is dropped after 20 deliveries, unless told otherwise


def bucket(key: str) -> str:
    """Return the routing key of what belongs to `key`."""
    return str(zlib.crc32(key.encode("utf-8", "surrogatepass")) % BUCKETS)


def is_dead(topic: str) -> bool:
    """Tell whether `topic` takes what workers gave up: it waits for people, and no worker reads it."""
    return topic.endswith(dead_topic(""))


class Layout:
    """The exchanges and queues that begin with `prefix`; a new group gets `partitions` queues."""

    def __init__(self, link: Link, prefix: str, partitions: int) -> None:
        self._link = link
        self._prefix = prefix
        self._partitions = partitions
        self._counts: dict[tuple[str, str], int] = {}

    def exchange(self, topic: str) -> str:
        """Return the name of the exchange of `topic`."""
        return _spelt(self._prefix + topic)

    def _queues(self, topic: str, group: str, count: int) -> list[str]:
        return [_spelt(f"{self._prefix}{topic}.{group}.{number}") for number in range(count)]

    def _mark(self, topic: str, group: str, count: int) -> str:
        return _spelt(f"{self._prefix}{topic}.{group} in {count}")

    def roll_call(self, topic: str, group: str) -> str:
        """Return the name of the queue by which the readers of `group` are counted."""
        return _spelt(f"{self._prefix}{topic}.{group} readers")

    async def make_queues(self, topic: str, group: str) -> list[str]:
        """Have the queues of `group` on `topic`, and return their names. Raises: ConfigError, Unavailable."""
        known = await self._count(topic, group)
        count = known or (1 if is_dead(topic) else self._partitions)
        names = self._queues(topic, group, count)
        missing = [name for name in names if not known or await self._waiting(name) is None]
        async with self._link.visit() as channel:
            await channel.exchange_declare(self.exchange(topic), exchange_type="direct", durable=True)
            for name in missing:
                await channel.queue_declare(name, durable=True, arguments=self._arguments(topic))
            for number in range(BUCKETS):
                await channel.queue_bind(names[number % count], self.exchange(topic), str(number), nowait=True)
            await channel.exchange_declare(self._mark(topic, group, count), exchange_type="fanout", durable=True)
        self._counts[topic, group] = count
        return names

    def _arguments(self, topic: str) -> dict[str, Any]:
        """Return what makes a queue: replicated, read by one at a time, and never dropping what came often."""
        told: dict[str, Any] = {"x-queue-type": "quorum", "x-queue-leader-locator": "balanced"}
        if not is_dead(topic):  # people may look into those, which the server allows only where several may read
            told["x-single-active-consumer"] = True
        if self._link.version >= _WITHOUT_LIMIT:
            told["x-delivery-limit"] = -1
        return told

    async def waiting(self, topic: str, group: str) -> int:
        """Return how many messages wait in the queues of `group`. Raises: ConfigError, Unavailable."""
        names = self._queues(topic, group, await self._count(topic, group))
        return sum([await self._waiting(name) or 0 for name in names])

    async def _waiting(self, queue: str) -> int | None:
        """Return how many messages wait in `queue`, None where there is no such queue."""
        async with self._link.visit() as channel:
            try:
                return (await channel.queue_declare(queue, passive=True)).message_count or 0
            except ChannelNotFoundEntity:
                return None

    async def _count(self, topic: str, group: str) -> int:
        """Return how many queues `group` was made with, 0 if it was not made yet."""
        if known := self._counts.get((topic, group)):
            return known
        for number in sorted(PARTITIONS, key=lambda number: number != self._partitions):
            async with self._link.visit() as channel:
                try:
                    await channel.exchange_declare(self._mark(topic, group, number), passive=True)
                except ChannelNotFoundEntity:
                    continue
                return number
        return 0


def _spelt(name: str) -> str:
    """Return `name` in the characters that AMQP has for names."""
    return re.sub(r"[^a-zA-Z0-9_.:@#,/ -]", lambda found: f"+{ord(found[0]):x}+", name)
