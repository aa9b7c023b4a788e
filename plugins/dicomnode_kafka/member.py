"""One process's membership in a group.

The servers share the partitions of a topic among the members of a group, and share them out anew when one comes or
goes. The driver then takes all partitions from every member at once, to give most of them back: it knows no cooperative
way. What this one was given stays in its hands over that; what is done is a fact whoever owns the partition, and is
committed when the partition comes back. A batch in hand holds up the new share-out, for `handover_s` at most, so that
the next owner is rarely given what is still being worked on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiokafka.errors as kafka
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Delivery
from dicomnode_kafka.faults import AWAY, FORBIDDEN, LOST, NAME, forbidden, of_asking
from dicomnode_kafka.looking import Onlooker
from dicomnode_kafka.options import Options
from dicomnode_kafka.progress import ROOM, Progress, State, beyond
from dicomnode_kafka.share import Share

_LOG = logging.getLogger("dicomnode.kafka")
_ASKING_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_FIRST_SHARE_S, _FIRST = 3.0, 500
# Beyond `handover_s`: how long the others wait for one who is to come for a new share.
_REJOIN_S = 30.0
_MEMBER_FETCH = 1024 * 1024


class Names(msgspec.Struct, frozen=True):
    """What a topic and a group are called here, and there."""

    topic: str
    their_topic: str
    their_group: str


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """Read what the servers give this process of a topic, and commit what is done. One `take` at a time."""

    def __init__(self, options: Options, connection: dict[str, Any], onlooker: Onlooker, names: Names) -> None:
        self._options = options
        self._connection = connection
        self._onlooker = onlooker
        self._names = names
        self._share = Share(names.topic)
        self._consumer: Any = None
        self._filling: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._shared_out = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._committing = asyncio.Lock()
        self._room = ROOM
        self._pause_s = _FIRST_PAUSE_S
        self._closing = False

    async def open(self) -> None:
        """Join the group; return when there is a share, or soon: who is in it already may still have to let go.

        Raises: ConfigError, Unavailable.
        """
        try:
            await self._join()
            shared_out = asyncio.ensure_future(self._shared_out.wait())
            try:
                await self._wait(shared_out, _FIRST_SHARE_S)
            finally:
                shared_out.cancel()
        except FORBIDDEN as error:
            await self.close()
            raise forbidden(f"read {self._names.their_topic} as {self._names.their_group}", error) from error
        except AWAY as error:
            await self.close()
            raise of_asking(error) from error

    async def close(self) -> None:
        """Leave the group; under a name of its own (`instance`) this process keeps its share until `session_s`."""
        self._closing = True
        self._acknowledged.set()
        await self._leave()

    async def _join(self) -> None:
        options = self._options
        consumer = AIOKafkaConsumer(
            **self._connection,
            group_id=self._names.their_group,
            group_instance_id=options.instance or None,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            # The driver keeps what an assignor remembers with its class.
            partition_assignment_strategy=(type("Sticky", (StickyPartitionAssignor,), {}),),
            session_timeout_ms=int(options.session_s * 1000),
            heartbeat_interval_ms=int(min(3000, options.session_s * 1000 / 3)),
            max_poll_interval_ms=int(options.handling_s * 1000),
            rebalance_timeout_ms=int((options.handover_s + _REJOIN_S) * 1000),
            # Who joins is answered when all have come.
            request_timeout_ms=int((options.handover_s + _REJOIN_S + options.timeout_s) * 1000),
            fetch_max_wait_ms=options.fetch_wait_ms,
            fetch_max_bytes=options.prefetch_mib * 1024 * 1024,
            max_partition_fetch_bytes=min(_MEMBER_FETCH, options.prefetch_mib * 1024 * 1024),
        )
        try:
            async with asyncio.timeout(options.timeout_s):
                await consumer.start()
        except BaseException:
            await _stop(consumer, options.timeout_s)
            raise
        if self._closing:
            await _stop(consumer, options.timeout_s)
            raise kafka.ConsumerStoppedError
        self._consumer = consumer
        consumer.subscribe([self._names.their_topic], listener=self)

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        for task in (self._filling, self._loading):
            await _end(task)
        self._filling = self._loading = None
        self._shared_out.clear()
        self._share.release()
        if consumer is not None:
            await _stop(consumer, self._options.timeout_s)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Let go of the share; before that, let who works on a batch come to its end."""
        self._shared_out.clear()
        await _end(self._loading)
        self._share.drop()
        ends = time.monotonic() + self._options.handover_s
        while self._share.in_hand() and not self._closing and (left_s := ends - time.monotonic()) > 0:
            self._acknowledged.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._acknowledged.wait()
        self._share.release()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Have a new share; it is read from as soon as it is known what of it is done."""
        if self._consumer is not None:
            self._consumer.pause(*assigned)
            self._loading = asyncio.create_task(self._load(self._consumer, sorted(assigned)))

    async def _load(self, consumer: Any, places: list[TopicPartition]) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._resume(consumer, places)
            except LOST:
                return  # the next share is being given out
            except AWAY as error:
                _LOG.warning("share.delayed: %s", type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                break
        self._shared_out.set()
        with suppress(Unavailable):  # what was done while another owned it; the next acknowledgement takes it along
            await self._commit()

    async def _resume(self, consumer: Any, places: list[TopicPartition]) -> None:
        if not places:
            return
        partitions = [place.partition for place in places]
        names = self._names
        committed = await self._onlooker.committed(names.their_group, names.their_topic, partitions)
        firsts = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            progress = self._progress(place, committed[place.partition], firsts[place], ends[place])
            consumer.seek(place, progress.next)
            self._share.own(place.partition, progress)
        consumer.resume(*places)

    def _progress(self, place: TopicPartition, committed: State, first: int, end: int) -> Progress:
        offset, text = committed
        known = self._share.known(place.partition)
        if max(offset, known.next if known else 0) > end:
            _LOG.error("topic.replaced: partition %s of %s begins anew", place.partition, place.topic)
            return Progress(first)
        if 0 <= offset < first:
            _LOG.error("messages.expired: %s of %s, before anyone worked on them", first - offset, place.topic)
        base = max(offset, first)
        progress = known or Progress(base)
        progress.resume(base, beyond(offset, text), end)
        progress.kept = committed
        return progress

    def hand_over(self) -> None:
        """Give everything that is not done again, to a new subscription."""
        self._share.again()
        for partition, progress in self._share.owned().items():
            with suppress(*LOST):
                self._consumer.seek(TopicPartition(self._names.their_topic, partition), progress.next)

    async def take(self, most: int, linger_s: float, over: asyncio.Future[str]) -> Sequence[Delivery]:
        """Return messages, as the port says, riding out the servers' absence; until it is `over`."""
        ends = 0.0
        while not over.done():
            left_s = None
            if self._share:
                ends = ends or time.monotonic() + linger_s
                left_s = ends - time.monotonic()
                if len(self._share) >= most or left_s <= 0:
                    return self._share.pop(most)
            try:
                await self._wait(over, left_s, most)
            except AWAY as error:
                await self._rejoin(error, over)
        raise Unavailable(NAME, over.result())

    async def _wait(self, over: asyncio.Future[Any], left_s: float | None, most: int = _FIRST) -> None:
        """Return when there are more messages, or it is `over`, or after `left_s`. Raises: as the driver."""
        if self._consumer is None:
            raise kafka.ConsumerStoppedError
        # It is not cancelled with us: the driver would then believe for ever that someone asks for messages, and notice
        # no more when nobody does.
        if self._filling is None:
            wait_s = _ASKING_S if left_s is None else min(left_s, _ASKING_S)
            self._filling = asyncio.create_task(self._fill(most, max(1, int(wait_s * 1000))))
        filling = self._filling
        await asyncio.wait({filling, over}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if filling.done() and filling is self._filling:
            self._filling = None
            filling.result()

    async def _fill(self, most: int, timeout_ms: int) -> None:
        found = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=most)
        self._share.absorb(found)
        self._pause_s = _FIRST_PAUSE_S

    async def _rejoin(self, error: Exception, over: asyncio.Future[str]) -> None:
        _LOG.warning("member.lost: %s; it joins anew", type(error).__name__)
        await self._leave()
        await asyncio.wait({over}, timeout=self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        with suppress(*AWAY):
            if not over.done():
                await self._join()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Have `deliveries` done. Of a partition that another owns by now, it is noted, in case it comes back."""
        self._share.settle(deliveries)
        try:
            await self._commit()
        finally:
            self._acknowledged.set()

    async def _commit(self) -> None:
        async with self._committing:  # an older state must not come after a newer one
            while states := self._share.uncommitted(self._room):
                try:
                    async with asyncio.timeout(self._options.timeout_s):
                        await self._consumer.commit(self._offsets(states))
                except kafka.OffsetMetadataTooLargeError:
                    self._room //= 2
                except LOST:
                    return
                except AWAY as error:
                    raise of_asking(error) from error
                else:
                    self._share.committed(states)
                    return

    def _offsets(self, states: dict[int, State]) -> dict[TopicPartition, State]:
        return {TopicPartition(self._names.their_topic, partition): state for partition, state in states.items()}


async def _end(task: asyncio.Task[None] | None) -> None:
    """Have `task` ended, whatever came of it."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _stop(consumer: Any, patience_s: float) -> None:
    """Stop `consumer`; one that waits for servers in vain is left to them."""
    try:
        async with asyncio.timeout(patience_s):
            await consumer.stop()
    except AWAY:
        if consumer._fetcher is not None:  # noqa: SLF001 -- `stop` does nothing when it is called again
            await consumer._fetcher.close()  # noqa: SLF001
        await consumer._client.close()  # noqa: SLF001
