from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import msgspec
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.config import IngestTable
from dicomnode.dicom.part10 import read_file_meta
from dicomnode.errors import BadInstance, Full, Mismatch, Unavailable
from dicomnode.model.instance import Arrival, Door
from dicomnode.model.messages import LOG_QUEUE, STORAGE_QUEUE, DicomObjectMeta, TransferStatus, decode_object_meta
from dicomnode.model.viewers import Viewers
from dicomnode.ports.broker import Message, Subscription
from dicomnode.ports.storage import Buffer
from dicomnode.services.ingest import Ingest
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.storage import MemoryStorage
from tests.corpus import data_set_of, make, part10

ARRIVAL = Arrival("default", Door.STORESCP, str(ExplicitVRLittleEndian), source_aet="CT1", source_ip="192.0.2.7")


class BrokenBroker(MemoryBroker):
    """A broker that is away."""

    async def publish(self, messages: Sequence[Message]) -> None:
        raise Unavailable("broken", "away")

    async def publish_beside(self, messages: Sequence[Message], effect: Awaitable[object]) -> None:
        await effect
        raise Unavailable("broken", "away")

    async def publish_laden(self, messages: Sequence[Message], cargo: Sequence[Buffer]) -> None:
        raise Unavailable("broken", "away")


class House:
    """An ingest between memory plugins."""

    def __init__(
        self, tmp_path: Path, broker: MemoryBroker | None = None, room: int = 1 << 30, **table: object
    ) -> None:
        self.storage = MemoryStorage(MemoryStorage.Options(capacity_bytes=room), tmp_path)
        self.broker = broker or MemoryBroker(MemoryBroker.Options(), tmp_path)
        self.ingest = Ingest(self.storage, self.broker, msgspec.convert(table, IngestTable))
        self.queue: Subscription

    async def __aenter__(self) -> House:
        await self.storage.__aenter__()
        await self.broker.__aenter__()
        self.queue = await self.broker.subscribe(STORAGE_QUEUE, "consumer")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.__aexit__(None, None, None)
        await self.storage.__aexit__(None, None, None)

    async def message(self) -> DicomObjectMeta:
        (delivery,) = await asyncio.wait_for(self.queue.take(10), 5)
        return decode_object_meta(delivery.message.body)

    async def keys(self) -> list[str]:
        return [stored.key async for stored in self.storage.list()]


async def test_what_is_acknowledged_is_kept_and_announced(tmp_path: Path) -> None:
    ds = make()
    data_set = data_set_of(part10(ds))
    async with House(tmp_path) as house:
        stored = await house.ingest.store(ARRIVAL, data_set)
        kept = await house.storage.read(stored.key)
        told = await house.message()
    meta = read_file_meta(kept, complete=True)
    assert meta is not None
    assert kept[meta.data_set_offset :] == data_set
    assert (meta.sop_class_uid, meta.sop_instance_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert (told.file_path, told.file_size, told.data_set_offset) == (stored.key, len(kept), meta.data_set_offset)
    assert told.sha256 == hashlib.sha256(data_set).hexdigest()
    assert (told.study_uid, told.patient_id, told.source_ae, told.source_ip) == (
        ds.StudyInstanceUID,
        "P1",
        "CT1",
        "192.0.2.7",
    )
    assert told.worker_node_id == "DICOM_STORE_SCP"


async def test_the_key_tells_tenant_date_and_uids_and_is_never_used_again(tmp_path: Path) -> None:
    ds = make()
    data_set = data_set_of(part10(ds))
    async with House(tmp_path) as house:
        keys = {(await house.ingest.store(ARRIVAL, data_set)).key for _ in range(3)}
    assert len(keys) == 3
    prefix = f"default/20260102/{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}-"
    assert all(key.startswith(prefix) and key.endswith(".dcm") for key in keys)


@pytest.mark.parametrize("uid", ["../../x", "/etc/x", "..", "1.2/../3", "ünïcode", "1..2", "1.02"])
async def test_a_uid_that_is_none_is_never_a_path(uid: str, tmp_path: Path) -> None:
    ds = make()
    data_set = data_set_of(part10(ds))
    old = ds.SeriesInstanceUID.encode()
    hostile = data_set.replace(old, uid.encode("utf-8")[: len(old)].ljust(len(old), b"\0"))
    async with House(tmp_path) as house:
        stored = await house.ingest.store(ARRIVAL, hostile)
        series = stored.key.split("/")[3]
        assert stored.warnings
    assert series.startswith("x")
    assert series.isalnum()


async def test_a_study_without_a_date_is_filed_under_today(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        stored = await house.ingest.store(ARRIVAL, data_set_of(part10(make(StudyDate=""))))
    date = stored.key.split("/")[1]
    assert len(date) == 8
    assert date >= "20260101"


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_full_storage_is_told_and_nothing_is_announced(size: int, tmp_path: Path) -> None:
    data_set = data_set_of(part10(make(PixelData=bytes(size))))
    async with House(tmp_path, room=5) as house:
        with pytest.raises(Full):
            await house.ingest.store(ARRIVAL, data_set)
        assert await house.keys() == []
        assert (await house.broker.lag(STORAGE_QUEUE, "consumer")).messages == 0


async def test_a_broker_that_is_away_is_told_and_nothing_is_kept(tmp_path: Path) -> None:
    async with House(tmp_path, BrokenBroker(MemoryBroker.Options(), tmp_path)) as house:
        with pytest.raises(Unavailable):
            await house.ingest.store(ARRIVAL, data_set_of(part10(make())))
        data_set = data_set_of(part10(make()))
        with pytest.raises(Unavailable):
            await house.ingest.store_stream(ARRIVAL, data_set[:600], _in_chunks(data_set[600:], 7))
        assert await house.keys() == []


async def _in_chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("first", [0, 8, 200, 10_000])
async def test_a_stream_is_kept_like_a_whole(first: int, tmp_path: Path) -> None:
    data_set = data_set_of(part10(make(PixelData=bytes(9000))))
    async with House(tmp_path) as house:
        stored = await house.ingest.store_stream(ARRIVAL, data_set[:first], _in_chunks(data_set[first:], 100))
        told = await house.message()
        kept = await house.storage.read(stored.key, told.data_set_offset)
    assert kept == data_set
    assert told.sha256 == hashlib.sha256(data_set).hexdigest()
    assert told.file_size == told.data_set_offset + len(data_set)


async def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    data_set = data_set_of(part10(make(PixelData=bytes(9000))))

    async def breaking() -> AsyncIterator[bytes]:
        yield data_set[800:2000]
        raise BadInstance("the association was aborted")

    async with House(tmp_path) as house:
        with pytest.raises(BadInstance, match="aborted"):
            await house.ingest.store_stream(ARRIVAL, data_set[:800], breaking())
        assert await house.keys() == []


async def test_a_header_that_never_ends_is_refused(tmp_path: Path) -> None:
    private = b"\x01\x00\x10\x00UN\x00\x00" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20)
    async with House(tmp_path, max_header=100_000) as house:
        with pytest.raises(BadInstance, match="do not come within 100000 bytes"):
            await house.ingest.store_stream(ARRIVAL, private[:50], _in_chunks(private[50:], 20_000))


async def test_what_is_not_of_the_announced_study_is_refused(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        with pytest.raises(Mismatch):
            await house.ingest.store(msgspec.structs.replace(ARRIVAL, study_uid="1.2.3"), data_set_of(part10(make())))
        assert await house.keys() == []


async def test_an_announcement_that_differs_warns(tmp_path: Path) -> None:
    arrival = msgspec.structs.replace(ARRIVAL, sop_instance_uid="1.2.3")
    async with House(tmp_path) as house:
        stored = await house.ingest.store(arrival, data_set_of(part10(make())))
        assert stored.warnings == ("SOPInstanceUID differs from what was announced",)
        assert await house.keys() == [stored.key]


async def test_an_announcement_that_differs_is_refused_where_strict(tmp_path: Path) -> None:
    arrival = msgspec.structs.replace(ARRIVAL, sop_instance_uid="1.2.3")
    async with House(tmp_path, strict=True) as house:
        with pytest.raises(Mismatch, match="SOPInstanceUID"):
            await house.ingest.store(arrival, data_set_of(part10(make())))
        assert await house.keys() == []


async def test_cancellation_leaves_nothing_announced(tmp_path: Path) -> None:
    data_set = data_set_of(part10(make()))

    async def stuck() -> AsyncIterator[bytes]:
        yield data_set[700:]
        await asyncio.sleep(60)

    async with House(tmp_path) as house:
        task = asyncio.create_task(house.ingest.store_stream(ARRIVAL, data_set[:700], stuck()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await house.keys() == []
        assert (await house.broker.lag(STORAGE_QUEUE, "consumer")).messages == 0


@pytest.mark.parametrize(("carried", "laden"), [(32 * 1024, True), (100, False), (0, False)])
async def test_a_small_object_goes_with_its_message(tmp_path: Path, carried: int, laden: bool) -> None:
    data_set = data_set_of(part10(make()))
    async with House(tmp_path, carried=carried) as house:
        stored = await house.ingest.store(ARRIVAL, bytearray(data_set))
        kept = await house.storage.read(stored.key)
        (delivery,) = await asyncio.wait_for(house.queue.take(10), 5)
        assert delivery.laden is laden
        assert await house.broker.cargo(delivery) == (kept if laden else None)
    assert kept.endswith(data_set)


async def test_nothing_goes_with_a_message_that_nobody_here_reads(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        house.broker._groups.clear()
        other = await house.broker.subscribe(STORAGE_QUEUE, "another")
        stored = await house.ingest.store(ARRIVAL, data_set_of(part10(make())))
        (delivery,) = await asyncio.wait_for(other.take(10), 5)
        assert not delivery.laden
        assert await house.keys() == [stored.key]


@pytest.mark.parametrize(
    ("shown", "status", "target"),
    [
        ({str(ExplicitVRLittleEndian), "1.2.840.10008.1.2"}, TransferStatus.NOT_NEEDED, ""),
        ({"1.2.840.10008.1.2"}, TransferStatus.NEEDED, "1.2.840.10008.1.2"),
        (set(), TransferStatus.NOT_NEEDED, ""),
    ],
    ids=["shown", "not shown", "nothing is converted"],
)
async def test_what_viewers_do_not_show_is_marked(
    shown: set[str], status: TransferStatus, target: str, tmp_path: Path
) -> None:
    async with House(tmp_path) as house:
        log = await house.broker.subscribe(LOG_QUEUE, "recorder")
        ingest = Ingest(house.storage, house.broker, IngestTable(), Viewers(frozenset(shown), "1.2.840.10008.1.2"))
        data = data_set_of(part10(make()))
        await ingest.store(ARRIVAL, data)
        await ingest.store(ARRIVAL, data_set_of(part10(make(PixelData=bytes(100_000)))))
        await ingest.store_stream(ARRIVAL, data[:600], _in_chunks(data[600:], 7))
        for queue in (house.queue, log):
            for delivery in await queue.take(3):
                meta = decode_object_meta(delivery.message.body)
                assert (meta.transfer_status, meta.target_ts) == (status, target)
                assert meta.transfer_syntax_uid == ExplicitVRLittleEndian
