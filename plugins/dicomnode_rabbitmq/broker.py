"""Messages in RabbitMQ (3.10 or newer), for any number of processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dicomnode.errors import ConfigError, Full
from dicomnode.model.messages import INDEXING_GROUP, STORAGE_QUEUE
from dicomnode.ports.broker import Broker, Lag, Message, Remote, Subscription
from dicomnode_rabbitmq.connecting import NAME, Link, Settings, quiet
from dicomnode_rabbitmq.layout import PARTITIONS, Layout, is_dead
from dicomnode_rabbitmq.publishing import Publisher
from dicomnode_rabbitmq.sharing import RollCall
from dicomnode_rabbitmq.subscription import RabbitmqSubscription

_GONE_S = 0.5
_OPERATOR = "operator"  # the group whose queue holds what workers gave up, until somebody looks at it


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: amqp://user:password@host:5672/vhost, amqps:// for TLS (?cafile=FILE&certfile=FILE&keyfile=FILE).

    `user`, `password`: where the url has none. `prefix` stands before every name on the server. `partitions`: into how
    many queues a new group is split. `queues`: "topic:group" that is kept for before the group first came.
    `prefetch`: messages of one queue that are held here at most. `max_message_bytes`: as the server's max_message_size.
    `share_s`: how often a process looks whether others want a part of its queues.
    """

    url: str = "amqp://guest:guest@localhost:5672/"
    user: str = ""
    password: str = ""
    prefix: str = ""
    partitions: int = 4
    queues: tuple[str, ...] = ()
    prefetch: int = 2000
    max_message_bytes: int = 16 * 1024 * 1024
    timeout_s: float = 10.0
    heartbeat_s: int = 10
    share_s: float = 5.0

    def __repr__(self) -> str:
        return f"Options(prefix={self.prefix!r})"  # the rest may hold secrets


class RabbitmqBroker(Broker, Remote):
    """Quorum queues. At least once: after a failure to publish, or a lost connection, a message may come twice."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        settings = Settings(options.url, options.user, options.password, options.heartbeat_s, options.timeout_s)
        # Apart, because a server short of memory stops listening to those who publish, also to what they acknowledge.
        self._publishing = Link(settings, "publishing")
        self._reading = Link(settings, "reading")
        self._layout = Layout(self._reading, options.prefix, options.partitions)
        self._publisher = Publisher(self._publishing, self._layout, options.max_message_bytes, self._house)
        self._subscriptions: dict[tuple[str, str], RabbitmqSubscription] = {}
        self._subscribing = asyncio.Lock()
        self._kept: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        quiet()
        if self._options.partitions not in PARTITIONS:
            raise ConfigError("broker.options.partitions", f"is none of {', '.join(map(str, PARTITIONS))}")
        self._kept = [(STORAGE_QUEUE, INDEXING_GROUP), *map(_topic_and_group, self._options.queues)]
        try:
            for topic, group in self._kept:
                await self._layout.make_queues(topic, group)
        except BaseException:
            await self._reading.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for subscription in self._subscriptions.values():
            await subscription.end("the broker is closed")
        await asyncio.gather(self._publishing.close(), self._reading.close())

    async def ping(self) -> None:
        """Return when the server answers and takes messages. Raises: Unavailable, Full."""
        async with self._reading.visit():
            if await self._publishing.is_blocked():
                raise Full(NAME, "the server takes nothing now, it is short of memory or disk")

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when a majority of the servers of each queue has every one of `messages`; what no group wants is gone.

        Not all or none: when it raises some may be kept, and come twice when all are published again.
        Raises: Unavailable, Full: publish all again later. PluginError: one is too long, it is of no use to try again.
        """
        await self._publisher.publish(messages)

    async def _house(self, topic: str) -> bool:
        """Have the queues of those who want what comes on `topic` whether or not they ever came; tell whether any."""
        groups = [group for kept, group in self._kept if kept == topic]
        if groups:  # they were there: who read them is to be told that they are gone, before they are there again
            await asyncio.sleep(_GONE_S)
        for group in groups:
            await self._layout.make_queues(topic, group)
        if is_dead(topic):
            await self._layout.make_queues(topic, _OPERATOR)
        return bool(groups) or is_dead(topic)

    async def subscribe(self, topic: str, group: str) -> Subscription:
        """Stand in line for the queues of `group`; an earlier subscription of it in this process gives nothing more."""
        async with self._subscribing:
            earlier = self._subscriptions.pop((topic, group), None)
            if earlier:
                await earlier.end("another subscription of the group took over")

            async def make() -> list[str]:
                return await self._layout.make_queues(topic, group)

            readers = RollCall(self._reading, self._layout.roll_call(topic, group))
            subscription = RabbitmqSubscription(self._reading, topic, make, max(1, self._options.prefetch), readers)
            await subscription.begin(self._options.share_s, at_once=not is_dead(topic))
            self._subscriptions[topic, group] = subscription
            return subscription

    async def lag(self, topic: str, group: str) -> Lag:
        """Return how many messages wait for `group` on the server, and how many this process has not acknowledged.

        Not counted is what other processes have and did not acknowledge: of each queue `prefetch` at most. The age is
        that of the oldest message in this process, 0 where it has none.
        """
        subscription = self._subscriptions.get((topic, group))
        if subscription is None or not subscription.reads:
            return Lag(await self._layout.waiting(topic, group), 0.0)
        count, oldest = await subscription.behind()
        return Lag(count, max(0.0, time.time() - oldest / 1000) if oldest else 0.0)


def _topic_and_group(text: str) -> tuple[str, str]:
    topic, _, group = text.rpartition(":")
    if not topic or not group:
        raise ConfigError("broker.options.queues", f"{text!r} is not topic:group", "for example log_queue:recorder")
    return topic, group


_: type[Broker] = RabbitmqBroker
