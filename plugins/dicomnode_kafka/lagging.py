"""How far a group is behind, told by the servers to anyone: also where none of the group is here, or anywhere."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from dicomnode.ports.broker import Lag
from dicomnode_kafka.asking import Client
from dicomnode_kafka.faults import AWAY, of_asking
from dicomnode_kafka.looking import Onlooker
from dicomnode_kafka.options import Options
from dicomnode_kafka.progress import beyond

_PEEK_BYTES = 4096  # the servers give a whole batch in any case
_PEEK_S = 1.0
_REMEMBERED = 10_000

Offsets = dict[TopicPartition, int]


class Meter:
    """Measure lags. When the oldest message was published is read from it once."""

    def __init__(self, options: Options, connection: dict[str, Any], onlooker: Onlooker) -> None:
        settings = {
            **connection,
            "request_timeout_ms": int(options.timeout_s * 1000),
            "auto_offset_reset": "earliest",
            "max_partition_fetch_bytes": _PEEK_BYTES,
        }
        self._reader = Client(lambda: AIOKafkaConsumer(**settings), options.timeout_s)
        self._onlooker = onlooker
        self._alone = asyncio.Lock()
        self._times: dict[tuple[str, int, int], int] = {}

    async def close(self) -> None:
        """Close the connection."""
        await self._reader.close()

    async def lag(self, topic: str, group: str) -> Lag:
        """Return how far `group` is behind on `topic`. Raises: Unavailable."""
        try:
            count = await self._onlooker.count(topic)
            if not count:
                return Lag(0, 0.0)
            messages, oldest = await self._left(topic, group, count)
            times = await self._published(oldest)
        except AWAY as error:
            raise of_asking(error) from error
        return Lag(messages, max(0.0, time.time() - min(times) / 1000) if times else 0.0)

    async def _left(self, topic: str, group: str, count: int) -> tuple[int, Offsets]:
        """Return how many messages are left, and the first of them in each partition."""
        told = await self._onlooker.committed(group, topic, list(range(count)))
        places = [TopicPartition(topic, partition) for partition in range(count)]
        firsts: Offsets = await self._reader.asked(lambda reader: reader.beginning_offsets(places))
        ends: Offsets = await self._reader.asked(lambda reader: reader.end_offsets(places))
        messages, oldest = 0, {}
        for place in places:
            committed, text = told[place.partition]
            base = min(max(committed, firsts[place]), ends[place])
            done = sum(stop - start for start, stop in beyond(committed, text) if base <= start)
            left = max(0, ends[place] - base - done)
            messages += left
            if left:
                oldest[place] = base
        return messages, oldest

    async def _published(self, oldest: Offsets) -> list[int]:
        """Return when the messages at `oldest` were published, in ms, as far as it is told quickly."""
        missing = {place: offset for place, offset in oldest.items() if (*place, offset) not in self._times}
        if missing:
            if len(self._times) > _REMEMBERED:
                self._times.clear()
            async with self._alone:
                await self._reader.asked(lambda reader: self._peek(reader, missing))
        found = (self._times.get((*place, offset)) for place, offset in oldest.items())
        return [at for at in found if at is not None]

    async def _peek(self, reader: Any, missing: Offsets) -> None:
        reader.assign(list(missing))
        for place, offset in missing.items():
            reader.seek(place, offset)
        ends, left = time.monotonic() + _PEEK_S, dict(missing)
        while left and (wait_s := ends - time.monotonic()) > 0:
            found = await reader.getmany(*left, timeout_ms=int(wait_s * 1000), max_records=1)
            for place, records in found.items():
                self._times[(*place, left.pop(place))] = records[0].timestamp
                reader.pause(place)
        reader.pause(*missing)
