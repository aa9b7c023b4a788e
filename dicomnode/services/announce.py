"""Tell what was indexed: of each object its image, of each series what the archive now has of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby

from dicomnode.dicom.image_state import Series, image_meta, series_key, state_meta
from dicomnode.dicom.matching import normalise
from dicomnode.model.attributes import Form, Level
from dicomnode.model.entry import Fate
from dicomnode.model.messages import (
    IMAGE_QUEUE,
    STATE_QUEUE,
    TRANSFER_QUEUE,
    DicomObjectMeta,
    TransferStatus,
    encode,
    without_attributes,
)
from dicomnode.model.query import Found, OneOf, Query
from dicomnode.ports.broker import Broker, Message
from dicomnode.ports.database import Database

_PAGE = 1000
_BEFORE_OTHERS = 100  # objects described at a stretch, about a millisecond

_SeriesKey = tuple[str, str, str]  # tenant, study UID, series UID


class Announce:
    """Publish to the topics that are `read`; what nobody reads is not even made."""

    def __init__(self, broker: Broker, database: Database, read: frozenset[str]) -> None:
        self._broker = broker
        self._database = database
        self._read = read
        self._last_ms = 0

    async def tell(self, metas: Sequence[DicomObjectMeta], fates: Sequence[Fate | None]) -> None:
        """Return when it will survive a crash that the objects which are served now are told of.

        What is told of a series is what the index says of it after this batch. May be told again: the later counts.

        Raises: Unavailable, Full: nothing was told.
        """
        told = [meta async for meta in self._served(metas, fates)]
        messages = [*await self._images(told), *await self._states(told), *self._transfers(told)]
        if messages:
            await self._broker.publish(messages)

    async def _served(
        self, metas: Sequence[DicomObjectMeta], fates: Sequence[Fate | None]
    ) -> AsyncIterator[DicomObjectMeta]:
        again: list[DicomObjectMeta] = []
        for meta, fate in zip(metas, fates, strict=True):
            if fate in (Fate.NEW, Fate.REPLACED):
                yield meta
            elif fate is Fate.AGAIN:
                again.append(meta)
        # Indexed before and perhaps not told of; but it may be one that was set aside, then or since.
        for key, of_series in groupby(sorted(again, key=_series_of), _series_of):
            current = {location.key for location in await self._database.locate(*key)}
            for meta in of_series:
                if meta.file_path in current:
                    yield meta

    async def _images(self, told: Sequence[DicomObjectMeta]) -> Sequence[Message]:
        if IMAGE_QUEUE not in self._read:
            return ()
        messages = []
        for number, meta in enumerate(told, 1):
            messages.append(Message(IMAGE_QUEUE, meta.study_uid, encode(image_meta(meta))))
            if number % _BEFORE_OTHERS == 0:
                await asyncio.sleep(0)
        return messages

    async def _states(self, told: Sequence[DicomObjectMeta]) -> Sequence[Message]:
        if STATE_QUEUE not in self._read:
            return ()
        received: dict[_SeriesKey, str] = {}
        for meta in told:
            key = _series_of(meta)
            received[key] = min(received.get(key, meta.created_time), meta.created_time)
        messages, now = [], self._now()
        for tenant, of_tenant in groupby(sorted(received), lambda key: key[0]):
            wanted = {tuple(_plain(uid) for uid in key[1:]): key for key in of_tenant}
            async for found in self._found(tenant, list(wanted)):
                series = Series(found.patient, found.study, found.series, found.instance_count)
                study_uid, series_uid = series_key(series)
                touched = wanted.get((_plain(study_uid), _plain(series_uid)))
                if touched is not None:
                    state = state_meta(tenant, touched[1:], series, received[touched], now)
                    messages.append(Message(STATE_QUEUE, state.study_uid, encode(state)))
        return messages

    async def _found(self, tenant: str, keys: Sequence[tuple[str, ...]]) -> AsyncIterator[Found]:
        """Yield the series of these study and series UIDs, and perhaps some more."""
        studies, series = (tuple(dict.fromkeys(uids)) for uids in zip(*keys, strict=True))
        matches: Mapping[str, OneOf] = {"StudyInstanceUID": OneOf(studies), "SeriesInstanceUID": OneOf(series)}
        after = ""
        while True:
            page = await self._database.find(Query(tenant, Level.SERIES, matches, _PAGE, after))
            for found in page:
                yield found
            if len(page) < _PAGE:
                return
            after = page[-1].cursor

    def _transfers(self, told: Sequence[DicomObjectMeta]) -> Sequence[Message]:
        if TRANSFER_QUEUE not in self._read:
            return ()
        return [
            Message(TRANSFER_QUEUE, meta.study_uid, encode(without_attributes(meta)))
            for meta in told
            if meta.transfer_status is TransferStatus.NEEDED
        ]

    def _now(self) -> str:
        """Return the time, later than any that was returned before: a clock set back must not make the newer lose."""
        self._last_ms = max(self._last_ms + 1, time.time_ns() // 1_000_000)
        return datetime.fromtimestamp(self._last_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _series_of(meta: DicomObjectMeta) -> _SeriesKey:
    return meta.tenant_id, meta.study_uid, meta.series_uid


def _plain(uid: str) -> str:
    return normalise(Form.UID, uid)
