"""Messages on their way to the server, each confirmed by it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence

from aio_pika import DeliveryMode
from aio_pika import Message as Envelope
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, PublishError
from aiormq.channel import Channel

from dicomnode.errors import ConfigError, Full, PluginError, Unavailable
from dicomnode.ports.broker import Message
from dicomnode_rabbitmq.connecting import NAME, Link, asking, told
from dicomnode_rabbitmq.layout import Layout, bucket

KEY, AT = "key", "at"  # headers of ours: the message's key, and when it was published, in milliseconds

House = Callable[[str], Awaitable[bool]]


class Publisher:
    """Publish over one channel. `house` makes the queues of a topic and tells whether there are to be any."""

    def __init__(self, link: Link, layout: Layout, most_bytes: int, house: House) -> None:
        self._link = link
        self._layout = layout
        self._most_bytes = most_bytes
        self._house = house
        self._channel: Channel | None = None
        self._topics: set[str] = set()
        self._opening = asyncio.Lock()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the server has confirmed every one of `messages` that a group wants.

        Raises: Unavailable, Full: some may be kept, publish all of them again. PluginError: one is too long.
        """
        self._refuse_long(messages)
        try:
            async with asyncio.timeout(self._link.timeout_s):
                homeless = await self._send(messages)
                if homeless and await self._send(await self._housed(homeless)):
                    raise Unavailable(NAME, "a queue that was made is gone again")
        except TimeoutError as error:
            if await self._link.is_blocked():
                raise Full(NAME, "the server takes nothing now, it is short of memory or disk") from error
            self._channel = None
            self._link.drop()
            raise Unavailable(NAME, "the server did not confirm in time") from error
        except ConfigError as error:  # of a server that took us in at first: the messages are not to blame
            raise Unavailable(NAME, error.problem) from error

    def _refuse_long(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if len(message.body) > self._most_bytes:
                raise PluginError(
                    NAME,
                    f"a message of {len(message.body)} bytes for {message.topic} is longer than {self._most_bytes}"
                    " (broker.options.max_message_bytes, and the server's max_message_size)",
                )

    async def _send(self, messages: Sequence[Message]) -> list[Message]:
        """Return those of `messages` that no queue took, when all others are confirmed."""
        if not messages:
            return []
        channel = await self._ready({message.topic for message in messages})
        answers = await asyncio.gather(*(self._one(channel, message) for message in messages), return_exceptions=True)
        homeless = [
            message for message, answer in zip(messages, answers, strict=True) if isinstance(answer, PublishError)
        ]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, PublishError):
                self._learn(answer, messages)
                raise self._failed(answer) from answer
        return homeless

    async def _one(self, channel: Channel, message: Message) -> None:
        envelope = Envelope(
            message.body,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers={KEY: message.key, AT: time.time_ns() // 1_000_000},
        )
        await channel.basic_publish(
            message.body,
            exchange=self._layout.exchange(message.topic),
            routing_key=bucket(message.key),
            properties=envelope.properties,
            mandatory=True,
            wait=False,
        )

    def _learn(self, error: BaseException, messages: Sequence[Message]) -> None:
        """Take the server's own limit, if it closed the channel because of that. Raises: PluginError."""
        said = re.search(r"larger than .*?(\d+)", str(error)) if isinstance(error, ChannelPreconditionFailed) else None
        if said:
            self._most_bytes = min(self._most_bytes, int(said[1]))
            self._refuse_long(messages)

    @staticmethod
    def _failed(error: BaseException) -> Exception:
        if isinstance(error, DeliveryError):
            return Unavailable(NAME, "the server did not take a message")
        return told(error)

    async def _ready(self, topics: set[str]) -> Channel:
        """Return the channel, with an exchange for each of `topics`."""
        with asking():
            async with self._opening:
                if self._channel is None or self._channel.is_closed:
                    self._channel = await self._link.channel(confirms=True)
                    self._topics.clear()
                await self._link.unblocked()
                for topic in topics - self._topics:
                    await self._channel.exchange_declare(
                        self._layout.exchange(topic), exchange_type="direct", durable=True
                    )
                    self._topics.add(topic)
                return self._channel

    async def _housed(self, homeless: Sequence[Message]) -> list[Message]:
        """Return those that have a queue now; the rest no group wants."""
        wanted = {topic for topic in {message.topic for message in homeless} if await self._house(topic)}
        return [message for message in homeless if message.topic in wanted]
