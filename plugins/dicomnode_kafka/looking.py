"""What the servers know of topics and groups, asked by one who is in no group."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiokafka.errors as kafka
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from dicomnode.model.messages import dead_topic
from dicomnode_kafka.asking import Client
from dicomnode_kafka.faults import AWAY, of_asking, of_opening
from dicomnode_kafka.options import Options
from dicomnode_kafka.progress import State

_LAID_ASIDE = dead_topic("")
_PAUSE_S = 0.05
_DAY_MS = 24 * 3600 * 1000
_KNOWN_S = 300.0  # someone may add partitions
_HEAD = 4096  # bytes of room for what stands around a message of the greatest length


class Onlooker:
    """Ask for topics, and make those that are missing; ask what groups have committed."""

    def __init__(self, options: Options, connection: dict[str, Any]) -> None:
        self._options = options
        self._connection = connection
        timeout_ms = int(options.timeout_s * 1000)
        self._admin = Client(
            lambda: AIOKafkaAdminClient(**connection, request_timeout_ms=timeout_ms), options.timeout_s
        )
        self._making = asyncio.Lock()
        self._counts: dict[str, tuple[int, float]] = {}

    async def open(self) -> None:
        """Return when a server lets us in. Raises: ConfigError, Unavailable."""
        told: Exception = TimeoutError()
        try:
            async with asyncio.timeout(self._options.timeout_s):
                for server in self._connection["bootstrap_servers"]:
                    try:
                        await self._greet(server)
                    except AWAY as error:
                        told = error
                    else:
                        return
        except TimeoutError as error:
            raise of_opening(told) from error
        raise of_opening(told) from told

    async def _greet(self, server: str) -> None:
        """Shake hands with `server`: whatever goes wrong, the driver's clients say the same of it."""
        host, _, port = server.rpartition(":")
        arguments = {**self._connection, "request_timeout_ms": int(self._options.timeout_s * 1000)}
        del arguments["bootstrap_servers"], arguments["retry_backoff_ms"]
        connection = await create_conn(host.strip("[]"), int(port), **arguments)
        try:
            await connection.send(MetadataRequest([]))  # it ends here where a user is wanted, and none was named
        finally:
            connection.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._admin.close()

    async def ping(self) -> None:
        """Return when a server answers. Raises: Unavailable."""
        try:
            await self._admin.asked(lambda admin: admin.describe_topics([]))
        except AWAY as error:
            raise of_asking(error) from error

    async def ensured(self, topic: str) -> int:
        """Return how many partitions `topic` has; it is made where it is missing. Raises: as the driver."""
        if count := self._known(topic):
            return count
        async with self._making:
            if not (count := self._known(topic)):
                count = await self._admin.asked(lambda admin: self._ensure(admin, topic))
                self._counts[topic] = count, time.monotonic()
        return count

    def _known(self, topic: str) -> int:
        count, asked_at = self._counts.get(topic, (0, 0.0))
        return count if time.monotonic() - asked_at < _KNOWN_S else 0

    def forget(self) -> None:
        """Look for topics anew when they are next needed."""
        self._counts.clear()

    async def count(self, topic: str) -> int:
        """Return how many partitions `topic` has, 0 where there is none. Raises: as the driver."""
        return await self._admin.asked(lambda admin: self._count(admin, topic))

    async def _count(self, admin: Any, topic: str) -> int:
        # Who asks for a topic by its name may make it by that, with the servers' own settings. So all are asked for.
        for told in await admin.describe_topics():
            if told["topic"] == topic:
                if told["error_code"]:
                    raise kafka.for_code(told["error_code"])(topic)
                return len(told["partitions"])
        return 0

    async def _ensure(self, admin: Any, topic: str) -> int:
        if count := await self._count(admin, topic):
            return count
        answer = await admin.create_topics([self._new(topic)], timeout_ms=int(self._options.timeout_s * 1000))
        for _, code, _ in answer.topic_errors:
            error = kafka.for_code(code)
            if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                raise error(topic)
        while True:  # it is made, and may not be known everywhere yet
            if count := await self._count(admin, topic):
                return count
            await asyncio.sleep(_PAUSE_S)

    def _new(self, topic: str) -> NewTopic:
        options = self._options
        settings = {"max.message.bytes": str(max(options.max_message_bytes, options.batch_kib * 1024) + _HEAD)}
        laid_aside = topic.endswith(_LAID_ASIDE)
        if laid_aside:  # few, and kept until somebody looks at them
            settings["retention.ms"] = "-1"
        elif options.retention_days:
            settings["retention.ms"] = str(int(options.retention_days * _DAY_MS))
        new = NewTopic(topic, 1 if laid_aside else options.partitions, 1, topic_configs=settings)
        new.replication_factor = options.replication  # the driver's constructor does not know -1
        return new

    async def committed(self, group: str, topic: str, partitions: list[int]) -> dict[int, State]:
        """Return what `group` last committed of each partition; offset -1 where it never did. Raises: as the driver."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        told = await self._admin.asked(lambda admin: _offsets(admin, group, places))
        return {place.partition: (told[place].offset, told[place].metadata or "") for place in places}


async def _offsets(admin: Any, group: str, places: list[TopicPartition]) -> Any:
    told = await admin.list_consumer_group_offsets(group, partitions=places)
    if missing := [place for place in places if place not in told]:
        raise kafka.GroupLoadInProgressError(missing)  # no answer yet, which is not the answer "nothing yet"
    return told
