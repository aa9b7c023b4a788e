from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from dicomnode.config import TranscoderTable
from dicomnode.errors import Unavailable
from dicomnode.model.messages import (
    LOG_QUEUE,
    TRANSFER_QUEUE,
    DeadLetter,
    DicomObjectMeta,
    TransferStatus,
    dead_topic,
    decode_object_meta,
    encode,
    utc_now,
)
from dicomnode.ports.audit import representations
from dicomnode.ports.broker import Message, Subscription
from dicomnode.roles.transcoder import Transcoder
from dicomnode.services.represent import Represent
from tests.converting import Here, jpeg_2000, taken_in
from tests.rooms import EMBEDDED, Rooms, open_rooms


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, EMBEDDED) as rooms:
        yield rooms


@asynccontextmanager
async def _running(rooms: Rooms, represent: Represent, at_once: int = 2) -> AsyncIterator[Transcoder]:
    async with Transcoder(TranscoderTable(at_once=at_once, attempts=2), rooms.broker, represent) as role:
        running = asyncio.create_task(role.run())
        try:
            yield role
        finally:
            running.cancel()
            await asyncio.wait([running])


async def _ask(rooms: Rooms, *metas: DicomObjectMeta) -> None:
    await rooms.broker.publish([Message(TRANSFER_QUEUE, meta.study_uid, encode(meta)) for meta in metas])


async def _told(log: Subscription, count: int) -> dict[str, DicomObjectMeta]:
    """Return the next messages of the log that are not of a reception, by SOP Instance UID."""
    told: dict[str, DicomObjectMeta] = {}
    async with asyncio.timeout(20):
        while len(told) < count:
            for delivery in await log.take(100):
                meta = decode_object_meta(delivery.message.body)
                if meta.trace_id == "t":
                    told[meta.sop_uid] = meta
    return told


async def test_what_is_asked_for_is_made_and_told(rooms: Rooms, tmp_path: Path) -> None:
    log = await rooms.broker.subscribe(LOG_QUEUE, "recorder")
    metas = [await taken_in(rooms, jpeg_2000()) for _ in range(5)]
    metas[0] = msgspec.structs.replace(metas[0], updated_time="2999-01-01T00:00:00.000+00:00")
    async with _running(rooms, Represent(rooms.storage, Here(tmp_path))):
        await _ask(rooms, *metas)
        told = await _told(log, 5)
        assert (await rooms.broker.lag(*Transcoder.queues[0])).messages == 0
    for meta in metas:
        assert len(await representations(rooms.storage, meta.file_path)) == 1
        got = told[meta.sop_uid]
        assert got.transfer_status is TransferStatus.DONE
        assert got.updated_time > (meta.updated_time or meta.created_time)
        assert (
            msgspec.structs.replace(got, updated_time=meta.updated_time, transfer_status=TransferStatus.NEEDED) == meta
        )
    assert told[metas[0].sop_uid].updated_time == "2999-01-01T00:00:00.001+00:00"
    assert told[metas[1].sop_uid].updated_time <= utc_now()


async def test_no_more_than_allowed_are_under_way(rooms: Rooms, tmp_path: Path) -> None:
    log = await rooms.broker.subscribe(LOG_QUEUE, "recorder")
    under_way, most = 0, 0

    class Watched(Represent):
        async def represent(self, meta: DicomObjectMeta) -> TransferStatus:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.02)
            under_way -= 1
            return TransferStatus.DONE

    async with _running(rooms, Watched(rooms.storage, Here(tmp_path)), at_once=3):
        metas = [await taken_in(rooms, jpeg_2000()) for _ in range(9)]
        await _ask(rooms, *metas)
        await _told(log, 9)
    assert most == 3


async def test_a_storage_that_is_away_is_waited_for(rooms: Rooms, tmp_path: Path) -> None:
    log = await rooms.broker.subscribe(LOG_QUEUE, "recorder")
    calls: list[str] = []

    class Fickle(Represent):
        async def represent(self, meta: DicomObjectMeta) -> TransferStatus:
            calls.append(meta.sop_uid)
            if len(calls) == 1:
                raise Unavailable("storage", "away")
            return await super().represent(meta)

    metas = [await taken_in(rooms, jpeg_2000()) for _ in range(2)]
    async with _running(rooms, Fickle(rooms.storage, Here(tmp_path))):
        await _ask(rooms, *metas)
        told = await _told(log, 2)
    assert {meta.transfer_status for meta in told.values()} == {TransferStatus.DONE}
    assert calls.count(metas[0].sop_uid) == 2


async def test_poison_is_laid_aside_and_the_others_go_on(rooms: Rooms, tmp_path: Path) -> None:
    log = await rooms.broker.subscribe(LOG_QUEUE, "recorder")
    meta = await taken_in(rooms, jpeg_2000())
    async with _running(rooms, Represent(rooms.storage, Here(tmp_path))) as role:
        await rooms.broker.publish([Message(TRANSFER_QUEUE, "1", b"no JSON")])
        await _ask(rooms, meta)
        assert (await _told(log, 1))[meta.sop_uid].transfer_status is TransferStatus.DONE
        async with asyncio.timeout(10):
            while (await rooms.broker.lag(*role.queues[0])).messages:
                await asyncio.sleep(0.01)
    dead = await rooms.broker.subscribe(dead_topic(TRANSFER_QUEUE), "operator")
    (letter,) = await dead.take(10)
    assert msgspec.json.decode(letter.message.body, type=DeadLetter).body == "no JSON"


async def test_what_is_delivered_again_is_told_again_and_made_once(rooms: Rooms, tmp_path: Path) -> None:
    log = await rooms.broker.subscribe(LOG_QUEUE, "recorder")
    meta, transcoder = await taken_in(rooms, jpeg_2000()), Here(tmp_path)
    async with _running(rooms, Represent(rooms.storage, transcoder)):
        for _ in range(3):
            await _ask(rooms, meta)
            assert (await _told(log, 1))[meta.sop_uid].transfer_status is TransferStatus.DONE
    assert transcoder.made == 1
