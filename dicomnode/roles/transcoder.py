"""The role that has objects kept in a second transfer syntax, which viewers show."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from dicomnode.config import TranscoderTable
from dicomnode.model.messages import (
    LOG_QUEUE,
    TRANSFER_QUEUE,
    DicomObjectMeta,
    dead_topic,
    decode_object_meta,
    encode,
    transferred,
)
from dicomnode.ports.broker import Broker, Delivery, Message
from dicomnode.roles.worker import Pace, Unreadable, Worker, read_all, subscribed
from dicomnode.services.represent import Represent

_GROUP = "transcoder"
_TAKEN_FOR_EACH = 4  # messages for each object under way, so that one long conversion does not leave the others idle
_LINGER_S = 0.05


class Transcoder:
    """Read `dicom_transfer_queue`, convert, and tell `log_queue` what became of each object."""

    name = "transcoder"
    address = ""
    queues = ((TRANSFER_QUEUE, _GROUP), (dead_topic(TRANSFER_QUEUE), "operator"))

    def __init__(self, table: TranscoderTable, broker: Broker, represent: Represent) -> None:
        self._pace = Pace(_TAKEN_FOR_EACH * table.at_once, _LINGER_S, table.attempts)
        self._slots = asyncio.Semaphore(table.at_once)
        self._broker = broker
        self._represent = represent
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        subscription = await subscribed(self._broker, *self.queues)
        self._worker = Worker(self._broker, subscription, self._convert, self._pace, "represent")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker = None

    async def run(self) -> None:
        """Convert until cancelled."""
        assert self._worker is not None, "enter the role before running it"
        await self._worker.run()

    async def _convert(self, deliveries: Sequence[Delivery]) -> None:
        metas, unreadable = read_all(deliveries, lambda delivery: decode_object_meta(delivery.message.body))
        told = await asyncio.gather(*map(self._one, metas), return_exceptions=True)
        # All have ended before one's failure has the batch come again.
        if done := [one for one in told if isinstance(one, Message)]:
            await self._broker.publish(done)
        for one in told:
            if isinstance(one, BaseException):
                raise one
        Unreadable.check(unreadable)

    async def _one(self, meta: DicomObjectMeta) -> Message:
        async with self._slots:
            status = await self._represent.represent(meta)
        return Message(LOG_QUEUE, meta.study_uid, encode(transferred(meta, status)))
