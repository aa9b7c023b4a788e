"""Messages on their way to the servers: through one producer, which is thrown away as soon as it fails.

An idempotent producer of the driver tries again for ever, and keeps all that it was given meanwhile. So whoever
publishes waits for `timeout_s`; then the producer goes, with what it still held, and the next call makes a new one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import DefaultPartitioner

from dicomnode.errors import PluginError
from dicomnode.ports.broker import Message
from dicomnode_kafka.faults import AWAY, NAME, of_publishing
from dicomnode_kafka.options import Options

_OVERHEAD = 70  # bytes that a record adds to its key and value, at most, with the head of a batch
_FEW = 8  # records; below it they share a batch with what others publish, above it they fill their own
_SHARES = lru_cache(65536)(lambda key, count: DefaultPartitioner()(key, range(count), ()))

Records = list[tuple[bytes, bytes]]


class Publisher:
    """Publish by the topics that `named` gives."""

    def __init__(
        self, options: Options, connection: dict[str, Any], named: Callable[[str], Awaitable[tuple[str, int]]]
    ) -> None:
        self._options = options
        self._connection = connection
        self._named = named
        self._producer: Any = None
        self._opening = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Have what was begun done, or gone after `timeout_s`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    await producer.flush()
                    await producer.stop()
            except AWAY:
                self._leave(producer)
        await asyncio.gather(*self._leaving)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the servers have all of `messages`, on as many machines as they promise."""
        self._check(messages)
        producer = None
        try:
            async with asyncio.timeout(self._options.timeout_s):
                places = await self._places(messages)
                producer = await self._opened()
                await self._send(producer, places)
        except AWAY as error:
            if producer is not None:
                self._leave(producer)
            raise of_publishing(error) from error

    def _check(self, messages: Sequence[Message]) -> None:
        most = self._options.max_message_bytes
        for message in messages:
            size = len(message.key.encode()) + len(message.body) + _OVERHEAD
            if size > most:
                hint = f"{size} bytes is longer than max_message_bytes ({most})"
                raise PluginError(NAME, f"a message for {message.topic} of {hint}; nothing was published")

    async def _places(self, messages: Sequence[Message]) -> dict[tuple[str, int], Records]:
        """Return `messages` by topic and partition, in order."""
        named = {topic: await self._named(topic) for topic in {message.topic for message in messages}}
        places: defaultdict[tuple[str, int], Records] = defaultdict(list)
        for message in messages:
            key = message.key.encode()
            name, count = named[message.topic]
            places[name, _SHARES(key, count)].append((key, message.body))
        return places

    async def _send(self, producer: Any, places: dict[tuple[str, int], Records]) -> None:
        sent: list[Any] = []
        for (topic, partition), records in places.items():
            if len(records) < _FEW:
                for key, body in records:
                    sent.append(await producer.send(topic, body, key, partition=partition))
            else:
                await self._send_batches(producer, topic, partition, records, sent)
        await asyncio.gather(*sent)

    async def _send_batches(self, producer: Any, topic: str, partition: int, records: Records, sent: list[Any]) -> None:
        """Fill batches of our own: a future for each of them, not for each message, halves the work."""
        batch = producer.create_batch()
        for key, body in records:
            if batch.append(timestamp=None, key=key, value=body) is None:
                sent.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(timestamp=None, key=key, value=body)
        sent.append(await producer.send_batch(batch, topic, partition=partition))

    async def _opened(self) -> Any:
        async with self._opening:
            if self._producer is None:
                self._producer = await self._started()
            return self._producer

    async def _started(self) -> Any:
        options = self._options
        producer = AIOKafkaProducer(
            **self._connection,
            request_timeout_ms=int(options.timeout_s * 1000),
            acks="all",
            enable_idempotence=options.idempotent,
            compression_type=None if options.compression == "none" else options.compression,
            linger_ms=options.linger_ms,
            max_batch_size=options.batch_kib * 1024,
            max_request_size=options.max_message_bytes + _OVERHEAD,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    def _leave(self, producer: Any) -> None:
        """Have `producer` gone, in its own time."""
        if self._producer is producer:
            self._producer = None
        task = asyncio.get_running_loop().create_task(_gone(producer, self._options.timeout_s))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def _gone(producer: Any, patience_s: float) -> None:
    """Stop `producer` without what it has not sent. The driver knows no such thing: its `stop` sends it all first."""
    with suppress(*AWAY):
        async with asyncio.timeout(3 * patience_s):
            await producer._sender.close()  # noqa: SLF001 -- what is on its way comes to an end, one way or the other
    kept = producer._message_accumulator  # noqa: SLF001
    batches = [*chain.from_iterable(kept._batches.values()), *kept._pending_batches]  # noqa: SLF001
    kept._pending_batches.update(batches)  # noqa: SLF001 -- where each is looked for when it has failed
    kept.fail_all(KafkaConnectionError("given up"))
    for future in chain.from_iterable((batch.future, batch._drain_waiter) for batch in batches):  # noqa: SLF001
        if future.done() and not future.cancelled():
            future.exception()  # or it is told of as one that nobody looked at
    with suppress(*AWAY):
        async with asyncio.timeout(patience_s):
            await producer.stop()
