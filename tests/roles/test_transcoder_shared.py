"""Several transcoders over a real broker: what one leaves when it goes another does, and nothing is made twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dicomnode import plug
from dicomnode.config import PluginTable, TranscoderTable
from dicomnode.model.messages import LOG_QUEUE, TRANSFER_QUEUE, DicomObjectMeta, TransferStatus, encode
from dicomnode.model.messages import decode_object_meta as decoded
from dicomnode.ports.audit import representations
from dicomnode.ports.broker import Broker, Message
from dicomnode.roles.transcoder import Transcoder
from dicomnode.services.represent import Represent
from tests.backends import started
from tests.converting import Here, jpeg_2000, taken_in
from tests.rooms import EMBEDDED, Rooms, open_rooms


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, EMBEDDED) as rooms:
        yield rooms


class One:
    """A process with a transcoder, but for the process."""

    def __init__(self, rooms: Rooms, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir()
        self.here = Here(folder)
        self.broker: Broker = plug.make("broker", Broker, PluginTable("rabbitmq", options), folder)
        self.role = Transcoder(TranscoderTable(), self.broker, Represent(rooms.storage, self.here))


@asynccontextmanager
async def _running(one: One) -> AsyncIterator[None]:
    async with one.broker, one.role:
        running = asyncio.create_task(one.role.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.mark.timeout(180)
async def test_one_takes_over_what_another_leaves(rooms: Rooms, tmp_path: Path) -> None:
    options = started.options("broker", "rabbitmq") | {"share_s": 0.2}
    metas = [await taken_in(rooms, jpeg_2000()) for _ in range(16)]
    first, second = (One(rooms, tmp_path / name, options) for name in ("first", "second"))
    asking: Broker = plug.make("broker", Broker, PluginTable("rabbitmq", options), tmp_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asking)
        log = await asking.subscribe(LOG_QUEUE, "recorder")
        dying = AsyncExitStack()
        await dying.enter_async_context(_running(first))
        await stack.enter_async_context(_running(second))
        first.here.pause.clear()  # it takes what is its own, and hangs
        await asking.publish([_asking(meta) for meta in metas])
        await asyncio.sleep(0.5)
        await dying.aclose()
        told: dict[str, DicomObjectMeta] = {}
        async with asyncio.timeout(40):
            while len(told) < len(metas):
                told |= {meta.sop_uid: meta for meta in await _told(log)}
    assert {meta.transfer_status for meta in told.values()} == {TransferStatus.DONE}
    assert (first.here.made, second.here.made) == (0, len(metas))
    for meta in metas:
        assert len(await representations(rooms.storage, meta.file_path)) == 1


def _asking(meta: DicomObjectMeta) -> Message:
    return Message(TRANSFER_QUEUE, meta.study_uid, encode(meta))


async def _told(log: Any) -> list[DicomObjectMeta]:
    deliveries = await log.take(100)
    await log.ack(deliveries)
    return [decoded(delivery.message.body) for delivery in deliveries]
