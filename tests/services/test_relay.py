"""What the doors left is handed on: all of it, in order, but for objects that a crash cut short."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.config import IngestTable
from dicomnode.dicom.header import read_header
from dicomnode.errors import ConfigError, Unavailable
from dicomnode.model.instance import Arrival, Door
from dicomnode.model.messages import (
    LOG_QUEUE,
    RELAY_GROUP,
    STORAGE_QUEUE,
    DicomObjectMeta,
    decode_object_meta,
    encode,
    object_meta,
)
from dicomnode.ports.broker import Delivery, Message
from dicomnode.services.ingest import Ingest
from dicomnode.services.relay import Relay
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.storage import MemoryStorage
from tests.corpus import data_set_of, make, part10
from tests.distant import DistantBroker, distant

ARRIVAL = Arrival("default", Door.STOW, str(ExplicitVRLittleEndian))


def meta_of(data_set: bytes, key: str) -> DicomObjectMeta:
    header = read_header(data_set, ExplicitVRLittleEndian)
    assert header is not None
    return object_meta(ARRIVAL, header, key, 0, len(data_set), hashlib.sha256(data_set).hexdigest())


class House:
    """A log, a broker elsewhere with one reader, a storage, and the relay between them."""

    def __init__(self, folder: Path) -> None:
        self.storage: MemoryStorage = MemoryStorage(MemoryStorage.Options(), folder)
        self.outbox = MemoryBroker(MemoryBroker.Options(), folder)
        self.broker: DistantBroker = distant(folder)
        self.relay = Relay(self.outbox, self.broker, self.storage)

    async def taken(self, topic: str = STORAGE_QUEUE) -> Sequence[Delivery]:
        subscription = await self.outbox.subscribe(topic, RELAY_GROUP)
        return await asyncio.wait_for(subscription.take(100), 10)

    async def came(self, topic: str = STORAGE_QUEUE) -> list[str]:
        """Return the keys of the objects that the reader elsewhere has been told of."""
        waiting = (await self.broker.behind.lag(topic, "reader")).messages
        if not waiting:
            return []
        found = await (await self.broker.behind.subscribe(topic, "reader")).take(100)
        return [decode_object_meta(delivery.message.body).file_path for delivery in found]


@pytest.fixture
async def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    for topic in (STORAGE_QUEUE, LOG_QUEUE):
        await made.outbox.subscribe(topic, RELAY_GROUP)
        await made.broker.behind.subscribe(topic, "reader")
    return made


@asynccontextmanager
async def _found(house: House, key: str, kept: bytes | None = None) -> AsyncIterator[Delivery]:
    """Give the message of an object of which `kept` is in the storage, as it is delivered after a crash."""
    data_set = data_set_of(part10(make()))
    if kept is not None:
        await house.storage.put(key, (kept or data_set,))
    yield Delivery(Message(STORAGE_QUEUE, "1", encode(meta_of(data_set, key))), 1, redelivered=True, doubtful=True)


async def test_what_ingest_publishes_is_handed_on_with_its_bytes_safe(house: House) -> None:
    ingest = Ingest(house.storage, house.outbox, IngestTable(), reader=RELAY_GROUP)
    stored = await ingest.store(ARRIVAL, data_set_of(part10(make())))
    deliveries = await house.taken()
    await house.relay.hand_on(deliveries)
    await house.relay.hand_on(await house.taken(LOG_QUEUE))
    assert await house.came() == [stored.key]
    assert await house.came(LOG_QUEUE) == [stored.key]


async def test_a_whole_object_is_handed_on_after_a_crash_and_a_cut_one_is_not(house: House) -> None:
    async with _found(house, "a/1.dcm", b"") as whole, _found(house, "a/2.dcm", b"half") as cut:
        gone = msgspec.structs.replace(
            whole, message=Message(STORAGE_QUEUE, "1", encode(meta_of(data_set_of(part10(make())), "a/3.dcm")))
        )
        positions = [msgspec.structs.replace(one, position=n) for n, one in enumerate((whole, cut, gone))]
        await house.relay.hand_on(positions)
    assert await house.came() == ["a/1.dcm"]


async def test_an_object_is_read_again_only_where_it_is_doubtful(house: House) -> None:
    """What comes again because of a restart alone is not: the storage may be slow, and the log long."""
    async with _found(house, "a/1.dcm") as found:
        await house.relay.hand_on([msgspec.structs.replace(found, doubtful=False)])
    assert await house.came() == ["a/1.dcm"], "nothing is there, and nobody looked"


async def test_what_a_power_cut_took_is_put_anew_before_it_is_told(house: House) -> None:
    data_set = data_set_of(part10(make()))
    message = Message(STORAGE_QUEUE, "1", encode(meta_of(data_set, "a/1.dcm")))
    await house.outbox.publish_laden([message], (data_set,))
    (laden,) = await house.taken()
    assert laden.laden
    await house.relay.hand_on([msgspec.structs.replace(laden, doubtful=True)])
    assert await house.storage.read("a/1.dcm") == data_set
    assert await house.came() == ["a/1.dcm"]


async def test_bytes_that_came_with_a_message_are_durable_before_it_goes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = data_set_of(part10(make()))
    settled: list[str] = []

    async def settle(keys: Sequence[str]) -> None:
        assert await house.came() == [], "not before"
        settled.extend(keys)

    monkeypatch.setattr(house.storage, "settle", settle)
    await house.storage.put_soon("a/1.dcm", (data_set,))
    message = Message(STORAGE_QUEUE, "1", encode(meta_of(data_set, "a/1.dcm")))
    await house.outbox.publish_laden([message], (data_set,))
    await house.relay.hand_on(await house.taken())
    assert settled == ["a/1.dcm"]
    assert await house.came() == ["a/1.dcm"]


async def test_the_log_is_not_told_of_what_was_dropped(house: House) -> None:
    """Nor before it is known what is: the first topic is worked through first."""
    async with _found(house, "a/1.dcm", b"half") as cut, _found(house, "a/2.dcm", b"") as whole:
        told = [
            Delivery(Message(LOG_QUEUE, "1", one.message.body), number, redelivered=True, doubtful=True)
            for number, one in enumerate((cut, whole))
        ]
        await house.outbox.publish([cut.message])
        subscription = await house.outbox.subscribe(STORAGE_QUEUE, RELAY_GROUP)
        taken = await subscription.take(10)
        handing = asyncio.create_task(house.relay.hand_on(told))
        await asyncio.sleep(0.02)
        assert not handing.done()
        await house.relay.hand_on([cut, msgspec.structs.replace(whole, position=2)])
        await subscription.ack(taken)
        await asyncio.wait_for(handing, 10)
    assert await house.came(LOG_QUEUE) == ["a/2.dcm"]


async def test_a_broker_that_is_away_is_told(house: House) -> None:
    house.broker.away = True
    async with _found(house, "a/1.dcm", b"") as found:
        with pytest.raises(Unavailable, match="nobody answers"):
            await house.relay.hand_on([found])


async def test_a_broker_that_we_may_not_write_to_costs_no_message(house: House) -> None:
    """It is not the message's fault: were it, the worker would lay every one of them aside."""
    house.broker.forbidding = True
    async with _found(house, "a/1.dcm", b"") as found:
        with pytest.raises(Unavailable, match="may not write") as caught:
            await house.relay.hand_on([found])
    assert isinstance(caught.value.__cause__, ConfigError)
