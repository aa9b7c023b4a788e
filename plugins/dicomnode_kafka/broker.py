"""Messages in Kafka, or what speaks its protocol (Redpanda): a topic is a topic, a group of ours is a consumer group.

A message's key decides its partition, so that what is told of one study stays in order. At least once: see `publish`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Broker, Delivery, Lag, Message, Remote, Subscription
from dicomnode_kafka.faults import AWAY, FORBIDDEN, UNFIT, forbidden, hush, of_asking, unfit
from dicomnode_kafka.lagging import Meter
from dicomnode_kafka.looking import Onlooker
from dicomnode_kafka.member import Member, Names
from dicomnode_kafka.options import Options, connection
from dicomnode_kafka.publishing import Publisher

_ALLOWED = re.compile(r"[^A-Za-z0-9._-]")


class KafkaSubscription(Subscription):
    """One group's view of one topic, in this process: until the next one of the same group, or the end."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._taking = False

    async def take(self, most: int, linger_s: float = 0.0) -> Sequence[Delivery]:
        """Wait for a message, then up to `linger_s` for more; servers that are away are waited for too."""
        if most < 1 or self._taking:
            raise ValueError("take at least one message, and one take at a time")
        self._taking = True
        try:
            return await self._member.take(most, linger_s, self._over)
        finally:
            self._taking = False

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Never deliver these to the group again, unless another process owns their partitions by now.

        Kafka keeps an offset for a group and a partition; what is acknowledged beyond it is kept in the text beside it,
        some hundred stretches of it. What does not fit comes again after a restart, marked `redelivered`.
        """
        await self._member.ack(deliveries)

    def end(self, reason: str) -> None:
        """Give nothing more; whoever waits is told `reason`."""
        if not self._over.done():
            self._over.set_result(reason)


class KafkaBroker(Broker, Remote):
    """Topics and groups on the servers that `url` names."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._members: dict[tuple[str, str], tuple[Member, KafkaSubscription]] = {}
        self._subscribing = asyncio.Lock()
        self._connection: dict[str, Any] = {}
        self._onlooker: Onlooker
        self._publisher: Publisher
        self._meter: Meter

    async def __aenter__(self) -> Self:
        hush()
        self._connection = await asyncio.to_thread(connection, self._options)
        self._onlooker = Onlooker(self._options, self._connection)
        self._publisher = Publisher(self._options, self._connection, self._named)
        self._meter = Meter(self._options, self._connection, self._onlooker)
        await self._onlooker.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        members, self._members = self._members, {}
        for _, subscription in members.values():
            subscription.end("the broker is closed")
        await asyncio.gather(self._publisher.close(), *(member.close() for member, _ in members.values()))
        await self._meter.close()
        await self._onlooker.close()

    async def ping(self) -> None:
        """Return when a server answers. Raises: Unavailable."""
        await self._onlooker.ping()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when every one of `messages` is on as many servers as these demand (acks=all).

        Raises: Unavailable, when not all of them are for sure: some may be, and come again when the caller tries again.
        Within a call a lost answer makes no duplicates (`idempotent`). PluginError, which is not to be retried: a
        message is longer than `max_message_bytes`, or than the servers take.
        """
        if not messages:
            return
        try:
            await self._publisher.publish(messages)
        except Unavailable:
            self._onlooker.forget()
            raise

    async def subscribe(self, topic: str, group: str) -> Subscription:
        """Register `group` on `topic`; a new group begins with the oldest message that is there.

        Raises: ConfigError, Unavailable.
        """
        async with self._subscribing:
            found = self._members.get((topic, group))
            if found:
                member, earlier = found
                earlier.end("a later subscription of the group has taken over")
                member.hand_over()
            else:
                member = await self._joined(topic, group)
            subscription = KafkaSubscription(member)
            self._members[topic, group] = member, subscription
            return subscription

    async def _joined(self, topic: str, group: str) -> Member:
        names = Names(topic, self._topic(topic), self._group(topic, group))
        try:
            await self._onlooker.ensured(names.their_topic)
        except FORBIDDEN as error:
            raise forbidden(f"read or make the topic {names.their_topic}", error) from error
        except UNFIT as error:
            raise unfit(names.their_topic, error) from error
        except AWAY as error:
            raise of_asking(error) from error
        member = Member(self._options, self._connection, self._onlooker, names)
        await member.open()
        return member

    async def lag(self, topic: str, group: str) -> Lag:
        """Return how far `group` is behind on `topic`, wherever its members are. Raises: Unavailable."""
        return await self._meter.lag(self._topic(topic), self._group(topic, group))

    async def _named(self, topic: str) -> tuple[str, int]:
        name = self._topic(topic)
        return name, await self._onlooker.ensured(name)

    def _topic(self, topic: str) -> str:
        return _spelled(self._options.topic_prefix + topic)

    def _group(self, topic: str, group: str) -> str:
        """A group of ours is one group of Kafka's for each topic: or a member of one topic would stop all others."""
        return _spelled(f"{self._options.group_prefix}{group}.{self._options.topic_prefix}{topic}")


def _spelled(name: str) -> str:
    """Return `name` in letters that Kafka allows."""
    return _ALLOWED.sub(lambda found: f"_{ord(found[0]):x}_", name)


_: type[Broker] = KafkaBroker
