from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid

from dicomnode.dicom.header import read_header
from dicomnode.errors import Unavailable
from dicomnode.model.entry import Fate, Policy
from dicomnode.model.instance import Arrival, Door, receipt_id
from dicomnode.model.messages import (
    IMAGE_QUEUE,
    STATE_QUEUE,
    TRANSFER_QUEUE,
    DicomImageMeta,
    DicomObjectMeta,
    DicomStateMeta,
    TransferStatus,
    decode_object_meta,
    object_meta,
)
from dicomnode.model.query import Found, Query
from dicomnode.ports.broker import Broker, Message
from dicomnode.ports.safekeeping import Received
from dicomnode.services import announce as module
from dicomnode.services.announce import Announce
from dicomnode.services.index import Index
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.database import MemoryDatabase
from dicomnode_memory.storage import MemoryStorage
from tests.corpus import data_set_of, make, part10

ALL = frozenset({IMAGE_QUEUE, STATE_QUEUE, TRANSFER_QUEUE})


class Counting(MemoryDatabase):
    """A database that counts how often it is asked for series."""

    asked = 0

    async def find(self, query: Query) -> Sequence[Found]:
        self.asked += 1
        return await super().find(query)


class House:
    """An index and what tells of it; `told` gives what was published since it was asked last."""

    def __init__(self, tmp_path: Path, broker: MemoryBroker, policy: Policy = Policy.KEEP_FIRST) -> None:
        self.broker = broker
        self.database = Counting(Counting.Options(), tmp_path)
        self.storage = MemoryStorage(MemoryStorage.Options(), tmp_path)
        self.index = Index(self.database, self.storage, policy)
        self.announce = Announce(broker, self.database, ALL)

    async def receive(self, *metas: DicomObjectMeta) -> Sequence[Fate | None]:
        """Index a batch and tell of it."""
        for meta in metas:
            if await self.storage.size(meta.file_path) is None:
                await self.storage.put(meta.file_path, (bytes(meta.file_size),))
        fates = await self.index.take_in([Received(meta) for meta in metas])
        await self.announce.tell(metas, fates)
        return fates

    async def told(self, topic: str) -> list[bytes]:
        """Return the bodies that wait on a topic, and have them gone."""
        queue = await self.broker.subscribe(topic, "test")
        count = (await self.broker.lag(topic, "test")).messages
        taken = await queue.take(count) if count else ()
        await queue.ack(taken)
        return [each.message.body for each in taken]

    async def images(self) -> list[DicomImageMeta]:
        return [msgspec.json.decode(body, type=DicomImageMeta) for body in await self.told(IMAGE_QUEUE)]

    async def states(self) -> list[DicomStateMeta]:
        return [msgspec.json.decode(body, type=DicomStateMeta) for body in await self.told(STATE_QUEUE)]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        for topic in ALL:
            await broker.subscribe(topic, "test")
        yield broker


@pytest.fixture
def house(tmp_path: Path, broker: MemoryBroker) -> House:
    return House(tmp_path, broker)


def received(ds: Dataset, tenant: str = "default", at: str = "") -> DicomObjectMeta:
    """Return the message of one reception of `ds`."""
    data_set = data_set_of(part10(ds))
    header = read_header(data_set, ExplicitVRLittleEndian)
    assert header is not None
    key = f"{tenant}/20260102/1/2/{ds.SOPInstanceUID}-{receipt_id()}.dcm"
    digest = f"{hash(data_set) & (1 << 64) - 1:064x}"
    arrival = Arrival(tenant, Door.STOW, str(ExplicitVRLittleEndian))
    meta = object_meta(arrival, header, key, 400, len(data_set), digest)
    return msgspec.structs.replace(meta, created_time=at) if at else meta


def in_series(of: Dataset, count: int) -> list[Dataset]:
    return [
        make(StudyInstanceUID=of.StudyInstanceUID, SeriesInstanceUID=of.SeriesInstanceUID, InstanceNumber=number)
        for number in range(count)
    ]


async def test_of_a_batch_each_object_and_each_series_is_told_once_with_one_question(house: House) -> None:
    first, second = make(), make(Modality="MR")
    batch = [received(ds) for ds in (*in_series(first, 3), *in_series(second, 2))]
    await house.receive(*batch)
    assert {image.sop_uid for image in await house.images()} == {meta.sop_uid for meta in batch}
    states = {state.series_uid: state for state in await house.states()}
    assert {uid: state.series_related_instances for uid, state in states.items()} == {
        first.SeriesInstanceUID: 3,
        second.SeriesInstanceUID: 2,
    }
    told = states[first.SeriesInstanceUID]
    assert (told.patient_name, told.study_date, told.modality) == ("Doe^Jane", "2026-01-02", "CT")
    assert told.created_time == min(meta.created_time for meta in batch[:3])
    assert house.database.asked == 1


async def test_messages_carry_the_study_as_their_key(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[Message] = []

    async def publish(messages: Sequence[Message]) -> None:
        published.extend(messages)

    monkeypatch.setattr(house.broker, "publish", publish)
    ds = make()
    meta = msgspec.structs.replace(received(ds), transfer_status=TransferStatus.NEEDED, target_ts="1.2.840.10008.1.2.1")
    await house.receive(meta)
    assert {(message.topic, message.key) for message in published} == {(topic, ds.StudyInstanceUID) for topic in ALL}


async def test_more_series_than_a_page_are_all_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    batch = [received(make()) for _ in range(10)]
    await house.receive(*batch)
    assert {state.series_uid for state in await house.states()} == {meta.series_uid for meta in batch}


async def test_a_series_uid_of_two_studies_and_tenants_is_told_of_those_that_were_touched(house: House) -> None:
    series = generate_uid()
    one, other = make(SeriesInstanceUID=series), make(SeriesInstanceUID=series)
    await house.receive(received(one), received(one, "second"))
    await house.states()
    await house.receive(received(other))
    (state,) = await house.states()
    assert (state.tenant_id, state.study_uid, state.series_uid) == ("default", other.StudyInstanceUID, series)


async def test_a_later_batch_has_the_later_version_also_when_the_clock_is_set_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = make()
    batches = [received(each) for each in in_series(ds, 3)]
    await house.receive(batches[0])
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    await house.receive(batches[1])
    await house.receive(batches[2])
    states = await house.states()
    assert [state.series_related_instances for state in states] == [1, 2, 3]
    assert states[0].updated_time < states[1].updated_time < states[2].updated_time


async def test_what_the_archive_has_is_told_not_what_the_last_object_said(house: House) -> None:
    ds = make(StudyDescription="first")
    again = make(
        StudyInstanceUID=ds.StudyInstanceUID, SeriesInstanceUID=ds.SeriesInstanceUID, StudyDescription="second"
    )
    await house.receive(received(ds))
    await house.receive(received(again))
    assert [state.study_description for state in await house.states()] == ["first", "first"]


async def test_a_batch_that_comes_again_is_told_again(house: House) -> None:
    meta = received(make())
    assert await house.receive(meta) == [Fate.NEW]
    first = await house.images()
    assert await house.receive(meta) == [Fate.AGAIN]
    assert await house.images() == first
    assert len(await house.states()) == 2


async def test_duplicates_and_what_is_set_aside_are_not_told_also_when_they_come_again(house: House) -> None:
    ds = make()
    kept = received(ds)
    await house.receive(kept)
    ds.ImageComments = "another"
    aside = received(ds)
    assert await house.receive(aside) == [Fate.ASIDE]
    assert await house.receive(aside, kept) == [Fate.AGAIN, Fate.AGAIN]
    duplicate = msgspec.structs.replace(kept, file_path=f"default/20260102/1/2/x-{receipt_id()}.dcm")
    assert await house.receive(duplicate) == [Fate.DUPLICATE]
    assert [(image.sop_uid, image.created_time) for image in await house.images()] == [
        (kept.sop_uid, kept.created_time),
        (kept.sop_uid, kept.created_time),
    ]
    assert aside.file_path != kept.file_path


async def test_of_two_that_replace_each_other_the_later_received_counts(tmp_path: Path, broker: MemoryBroker) -> None:
    house = House(tmp_path, broker, Policy.REPLACE)
    ds = make()
    early = received(ds, at="2026-01-02T03:04:05.000+00:00")
    ds.Rows = 16
    late = received(ds, at="2026-01-02T03:04:06.000+00:00")
    assert await house.receive(early) == [Fate.NEW]
    assert await house.receive(late) == [Fate.REPLACED]
    await house.images()
    assert await house.receive(early, late) == [Fate.AGAIN, Fate.AGAIN]
    (image,) = await house.images()
    assert (image.rows, image.updated_time) == (16, late.created_time)


async def test_a_report_without_pixels_is_told_of(house: House) -> None:
    ds = make(SOPClassUID=BasicTextSRStorage, Modality="SR")
    for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated", "PhotometricInterpretation"):
        delattr(ds, keyword)
    await house.receive(received(ds))
    (image,) = await house.images()
    (state,) = await house.states()
    assert (image.sop_class_uid, image.rows, state.modality) == (BasicTextSRStorage, 0, "SR")


async def test_what_viewers_do_not_show_goes_to_those_who_convert(house: House) -> None:
    plain = received(make())
    needing = msgspec.structs.replace(received(make()), transfer_status=TransferStatus.NEEDED)
    await house.receive(plain, needing)
    (body,) = await house.told(TRANSFER_QUEUE)
    told = decode_object_meta(body)
    assert (told.trace_id, bytes(told.attributes.instance)) == (needing.trace_id, b"{}")


async def test_what_nobody_reads_is_not_made(house: House) -> None:
    silent = Announce(house.broker, house.database, frozenset())
    meta = received(make())
    await silent.tell([meta], await house.index.take_in([Received(meta)]))
    assert house.database.asked == 0
    assert await house.images() == []


async def test_an_object_that_never_became_whole_is_not_told(house: House) -> None:
    await house.announce.tell([received(make())], [None])
    assert await house.images() == []


async def test_a_broker_that_is_away_is_the_callers_matter(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: Sequence[Message]) -> None:
        raise Unavailable("broker", "away")

    monkeypatch.setattr(house.broker, "publish", away)
    with pytest.raises(Unavailable):
        await house.receive(received(make()))


async def test_others_have_their_turn_while_a_long_batch_is_told(house: House) -> None:
    ds = make()
    meta = received(ds)
    metas = [msgspec.structs.replace(meta, sop_uid=f"1.{n}") for n in range(2000)]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await house.announce.tell(metas, [Fate.NEW] * len(metas))
    task.cancel()
    assert turns >= 20


_: type[Broker] = MemoryBroker
