"""The role that records in the warehouse what was received, what the archive says of it, and who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

from dicomnode import log
from dicomnode.config import RecorderTable
from dicomnode.model.messages import dead_topic
from dicomnode.model.warehouse import Table
from dicomnode.ports.broker import Broker, Delivery, Remote
from dicomnode.roles.worker import Pace, Unreadable, Worker, read_all, subscribed
from dicomnode.services.record import RECORDED, Reading, Record

_LOG = log.get("recorder")
_GROUP = "recorder"
_BEFORE_OTHERS = 250  # messages read at a stretch, about a millisecond


class Recorder:
    """Read the topics that rows come from, record. Without `record` there is no warehouse, and nothing is read.

    `queues` are the topics it answers for, each with the group that reads it.
    """

    name = "recorder"
    address = ""
    work = tuple((topic, _GROUP) for topic in RECORDED)
    dead = tuple((dead_topic(topic), "operator") for topic in RECORDED)
    queues = (*work, *dead)

    def __init__(self, table: RecorderTable, broker: Broker, record: Record | None) -> None:
        self._pace = Pace(table.rows, table.linger_s, table.attempts)
        self._broker = broker
        self._record = record
        self._workers: list[Worker] = []

    async def __aenter__(self) -> Self:
        if self._record is None:
            await self._let_go()
            return self
        for work, dead in zip(self.work, self.dead, strict=True):
            table, kind = RECORDED[work[0]]
            subscription = await subscribed(self._broker, work, dead)
            handle = partial(self._take_down, self._record, table, Reading(table, kind))
            self._workers.append(Worker(self._broker, subscription, handle, self._pace, "record"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers = []

    async def run(self) -> None:
        """Record until cancelled. What has been taken and not recorded then comes again."""
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.run())
            await asyncio.Event().wait()

    @staticmethod
    async def _take_down(record: Record, table: Table, reading: Reading, deliveries: Sequence[Delivery]) -> None:
        rows, unreadable = [], []
        for start in range(0, len(deliveries), _BEFORE_OTHERS):
            some = deliveries[start : start + _BEFORE_OTHERS]
            found, others = read_all(some, lambda each: reading.read(each.message.body))
            rows += found
            unreadable += others
            await asyncio.sleep(0)
        await record.record(table, rows)
        Unreadable.check(unreadable)

    async def _let_go(self) -> None:
        """Drop what an earlier run left in this node's own broker for a warehouse that it had, or it would stay."""
        if isinstance(self._broker, Remote):
            return  # others may have one
        for topic, group in self.work:
            waiting = (await self._broker.lag(topic, group)).messages
            if waiting:
                _LOG.warning("rows.dropped", topic=topic, rows=waiting, reason="warehouse.use is off")
                subscription = await self._broker.subscribe(topic, group)
                self._workers.append(Worker(self._broker, subscription, _forget, self._pace, "record"))


async def _forget(_: Sequence[Delivery]) -> None:
    """Do nothing: what is acknowledged then is gone."""
