from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.config import IngestTable
from dicomnode.model.entry import Policy
from dicomnode.model.instance import Arrival, Door
from dicomnode.model.messages import LOG_QUEUE, STORAGE_QUEUE, Attributes, decode_object_meta
from dicomnode.ports.broker import Subscription
from dicomnode.ports.safekeeping import Received
from dicomnode.services.index import Index
from dicomnode.services.ingest import Ingest
from dicomnode.services.sweep import Sweep
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.database import MemoryDatabase
from dicomnode_memory.storage import MemoryStorage
from tests.corpus import data_set_of, make, part10


class House:
    def __init__(self, tmp_path: Path) -> None:
        self.storage = MemoryStorage(MemoryStorage.Options(), tmp_path)
        self.broker = MemoryBroker(MemoryBroker.Options(), tmp_path)
        self.database = MemoryDatabase(MemoryDatabase.Options(), tmp_path)
        self.ingest = Ingest(self.storage, self.broker, IngestTable())
        self.sweep = Sweep(self.storage, self.broker, self.database)
        self.queue: Subscription

    async def index_all(self) -> None:
        deliveries = await self.queue.take(100)
        index = Index(self.database, self.storage, Policy.KEEP_FIRST)
        await index.take_in([Received(decode_object_meta(delivery.message.body)) for delivery in deliveries])
        await self.queue.ack(deliveries)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    async with house.storage, house.broker, house.database:
        house.queue = await house.broker.subscribe(STORAGE_QUEUE, "consumer")
        yield house


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
async def test_a_lost_message_is_made_again_the_same(syntax: str, house: House) -> None:
    arrival = Arrival("default", Door.STOW, str(syntax), source_aet="CT1")
    await house.ingest.store(arrival, data_set_of(part10(make(), syntax)))  # type: ignore[arg-type]
    (lost,) = await house.queue.take(10)
    await house.queue.ack([lost])
    assert (await house.sweep.run()).published == 1
    (again,) = await house.queue.take(10)
    first, second = decode_object_meta(lost.message.body), decode_object_meta(again.message.body)
    for field in (
        "file_path",
        "file_size",
        "data_set_offset",
        "sha256",
        "study_uid",
        "sop_uid",
        "attributes",
        "source_ae",
    ):
        assert getattr(first, field) == getattr(second, field), field


async def test_what_is_indexed_is_left_alone(house: House) -> None:
    for _ in range(3):
        await house.ingest.store(
            Arrival("default", Door.STOW, str(ExplicitVRLittleEndian)), data_set_of(part10(make()))
        )
    await house.index_all()
    swept = await house.sweep.run()
    assert (swept.objects, swept.published, swept.incomplete) == (3, 0, ())


@pytest.mark.parametrize("cut", [1, 30, 127, 205])
async def test_half_an_object_is_told_and_not_published(cut: int, house: House) -> None:
    await house.storage.put("default/20260102/1.2/1.3/1.4-x.dcm", (part10(make())[:-cut],))
    swept = await house.sweep.run()
    assert (swept.published, swept.incomplete) == (0, ("default/20260102/1.2/1.3/1.4-x.dcm",))


async def test_half_a_deflated_object_is_told(house: House) -> None:
    file = part10(make(PixelData=bytes(range(256)) * 400), DeflatedExplicitVRLittleEndian)
    assert zlib.decompressobj(-15).decompress(data_set_of(file))
    await house.storage.put("default/a/1.dcm", (file[:-20],))
    assert (await house.sweep.run()).published == 0


async def test_what_is_no_dicom_is_told(house: House) -> None:
    await house.storage.put("default/a/b.dcm", (b"something else",))
    assert (await house.sweep.run()).incomplete == ("default/a/b.dcm",)


async def test_what_was_indexed_is_told_again_as_it_was_received(house: House) -> None:
    log = await house.broker.subscribe(LOG_QUEUE, "recorder")
    await house.ingest.store(
        Arrival("default", Door.STOW, str(ExplicitVRLittleEndian), source_aet="CT1"), data_set_of(part10(make()))
    )
    (first,) = await log.take(10)
    await log.ack([first])
    await house.index_all()
    (location,) = [location async for location in house.database.keys()]  # noqa: SIM118 -- no mapping
    assert await house.sweep.tell_again(location)
    (again,) = await log.take(10)
    (to_index,) = await house.queue.take(10)
    one, two = decode_object_meta(first.message.body), decode_object_meta(again.message.body)
    same = ("trace_id", "tenant_id", "created_time", "file_path", "sha256", "file_size", "patient_id", "source_ae")
    assert [getattr(one, name) for name in same] == [getattr(two, name) for name in same]
    assert again.message.key == first.message.key
    assert two.attributes == Attributes()
    assert decode_object_meta(to_index.message.body).attributes != Attributes()


async def test_what_is_gone_or_unreadable_cannot_be_told_again(house: House) -> None:
    await house.ingest.store(Arrival("default", Door.STOW, str(ExplicitVRLittleEndian)), data_set_of(part10(make())))
    await house.index_all()
    (location,) = [location async for location in house.database.keys()]  # noqa: SIM118 -- no mapping
    await house.storage.delete([location.key])
    assert not await house.sweep.tell_again(location)
    await house.storage.put(location.key, (b"something else",))
    assert not await house.sweep.tell_again(location)
