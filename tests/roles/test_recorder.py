from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from dicomnode.config import RecorderTable
from dicomnode.errors import Unavailable
from dicomnode.model.messages import ACCESS_QUEUE, IMAGE_QUEUE, LOG_QUEUE, STATE_QUEUE, DeadLetter, dead_topic, encode
from dicomnode.model.warehouse import ACCESS, IMAGE, OBJECT, STATE, Table
from dicomnode.ports.broker import Broker, Message, Remote
from dicomnode.roles import worker
from dicomnode.roles.recorder import Recorder
from dicomnode.services.record import RECORDED, Record
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.warehouse import MemoryWarehouse
from dicomnode_sqlite.broker import SqliteBroker
from tests.contracts.rows import access_row, image_row, object_row, state_row


class Warehouse(MemoryWarehouse):
    """A warehouse that can be away, and remembers what it was given."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(MemoryWarehouse.Options(), tmp_path)
        self.given: list[tuple[str, int]] = []
        self.away = 0
        self.poison = ""

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("warehouse", "away")
        if self.poison and any(getattr(row, "sop_uid", "") == self.poison for row in rows):
            raise ValueError("the warehouse chokes on it")
        self.given.append((table.name, len(rows)))
        await super().record(table, rows)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path)


@asynccontextmanager
async def recording(
    broker: Broker, warehouse: Warehouse | None, table: RecorderTable | None = None
) -> AsyncIterator[Recorder]:
    record = Record(warehouse) if warehouse is not None else None
    async with Recorder(table or RecorderTable(linger_s=0.01, attempts=1), broker, record) as recorder:
        task = asyncio.create_task(recorder.run())
        try:
            yield recorder
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        yield broker


def message(topic: str, row: msgspec.Struct) -> Message:
    return Message(topic, "key", encode(row))


async def settled(broker: MemoryBroker | SqliteBroker, topic: str = LOG_QUEUE) -> None:
    await asyncio.wait_for(broker.settled(topic, "recorder"), 20)


async def test_each_topic_fills_its_table(broker: MemoryBroker, warehouse: Warehouse) -> None:
    rows = {LOG_QUEUE: object_row(), STATE_QUEUE: state_row(), IMAGE_QUEUE: image_row(), ACCESS_QUEUE: access_row()}
    async with recording(broker, warehouse):
        await broker.publish([message(topic, row) for topic, row in rows.items()])
        for topic in rows:
            await settled(broker, topic)
    assert await warehouse.counts() == {table.name: 1 for table in (OBJECT, STATE, IMAGE, ACCESS)}


async def test_what_waits_is_recorded_at_once(broker: MemoryBroker, warehouse: Warehouse) -> None:
    async with recording(broker, warehouse, RecorderTable(rows=100, linger_s=30.0)):
        await broker.publish([message(LOG_QUEUE, object_row(number)) for number in range(250)])
        await settled(broker)  # whoever waits is not kept waiting by `linger_s`
    assert [count for _, count in warehouse.given] == [100, 100, 50]


async def test_a_batch_is_held_back_for_so_long_at_most(broker: MemoryBroker, warehouse: Warehouse) -> None:
    async with recording(broker, warehouse, RecorderTable(linger_s=0.2)):
        await broker.publish([message(LOG_QUEUE, object_row(1))])
        await broker.publish([message(LOG_QUEUE, object_row(2))])
        until = asyncio.get_running_loop().time() + 20
        while not warehouse.given and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)
    assert warehouse.given == [(OBJECT.name, 2)]


async def test_it_stops_at_once_and_what_was_not_recorded_comes_again(
    broker: MemoryBroker, warehouse: Warehouse
) -> None:
    async with recording(broker, warehouse, RecorderTable(linger_s=300.0)):
        await broker.publish([message(LOG_QUEUE, object_row())])
        await asyncio.sleep(0.05)
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 1
    assert warehouse.given == []
    async with recording(broker, warehouse):
        await settled(broker)
    assert warehouse.given == [(OBJECT.name, 1)]


@pytest.mark.parametrize("body", [b"not json", b"{}", b"[1]", b"\xff", b'{"trace_id":"' + b"x" * 100_000])
async def test_what_is_unreadable_is_laid_aside_and_holds_nobody_up(
    body: bytes, broker: MemoryBroker, warehouse: Warehouse
) -> None:
    good = [message(LOG_QUEUE, object_row(number)) for number in range(20)]
    letters = await broker.subscribe(dead_topic(LOG_QUEUE), "test")
    async with recording(broker, warehouse, RecorderTable(linger_s=0.05, attempts=5)):
        with capture_logs() as logs:
            await broker.publish([*good[:7], Message(LOG_QUEUE, "key", body), *good[7:]])
            await settled(broker)
        (dead,) = await letters.take(10)
    assert warehouse.given == [(OBJECT.name, 20)], "once, and together"
    letter = msgspec.json.decode(dead.message.body, type=DeadLetter)
    assert (letter.topic, letter.attempts) == (LOG_QUEUE, 1)
    (told,) = [each for each in logs if each["event"] == "messages.dead"]
    assert (told["topic"], told["messages"]) == (LOG_QUEUE, 1)
    assert "xxx" not in str(logs)


async def test_a_topic_of_nothing_but_garbage_is_got_through(broker: MemoryBroker, warehouse: Warehouse) -> None:
    async with recording(broker, warehouse, RecorderTable(linger_s=0.0)):
        await broker.publish([Message(LOG_QUEUE, "key", b"garbage %d" % number) for number in range(1000)])
        await broker.publish([message(LOG_QUEUE, object_row())])
        await settled(broker)
        assert (await broker.lag(dead_topic(LOG_QUEUE), "operator")).messages == 1000
    assert warehouse.given == [(OBJECT.name, 1)]


async def test_a_row_that_the_warehouse_refuses_stops_nobody(broker: MemoryBroker, warehouse: Warehouse) -> None:
    warehouse.poison = "1.13"
    async with recording(broker, warehouse):
        with capture_logs():
            await broker.publish([message(LOG_QUEUE, object_row(number)) for number in range(40)])
            await settled(broker)
        assert (await broker.lag(dead_topic(LOG_QUEUE), "operator")).messages == 1
    assert (await warehouse.counts())[OBJECT.name] == 39


async def test_a_warehouse_that_is_away_is_waited_for(
    broker: MemoryBroker, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_FIRST_WAIT_S", 0.001)
    warehouse.away = 4
    async with recording(broker, warehouse):
        await broker.publish([message(LOG_QUEUE, object_row(number)) for number in range(3)])
        await settled(broker)
        assert (await broker.lag(dead_topic(LOG_QUEUE), "operator")).messages == 0
    assert (await warehouse.counts())[OBJECT.name] == 3


async def test_everything_delivered_twice_is_there_once(broker: MemoryBroker, warehouse: Warehouse) -> None:
    messages = [message(LOG_QUEUE, object_row(number)) for number in range(50)]
    async with recording(broker, warehouse, RecorderTable(linger_s=0.05)):
        await broker.publish([*messages, *messages])
        await settled(broker)
        await broker.publish(messages)
        await settled(broker)
    assert (await warehouse.counts())[OBJECT.name] == 50
    assert warehouse.given == [(OBJECT.name, 50), (OBJECT.name, 50)]


async def test_others_have_their_turn_while_a_long_batch_is_read(broker: MemoryBroker, warehouse: Warehouse) -> None:
    turns: list[float] = []

    async def other() -> None:
        while True:
            turns.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0)

    async with recording(broker, warehouse, RecorderTable(rows=5000, linger_s=30.0)):
        await broker.publish([message(LOG_QUEUE, object_row(number)) for number in range(5000)])
        task = asyncio.create_task(other())
        await settled(broker)
        task.cancel()
    assert len(turns) > 20


async def test_without_a_warehouse_nothing_is_kept(tmp_path: Path) -> None:
    async with SqliteBroker(SqliteBroker.Options(), tmp_path) as broker, recording(broker, None):
        await broker.publish([message(LOG_QUEUE, object_row())])
        assert all([(await broker.lag(topic, "recorder")).messages == 0 for topic in RECORDED])
        again = await broker.subscribe(LOG_QUEUE, "recorder")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(again.take(1), 0.1)


async def test_what_an_earlier_run_left_is_let_go_where_there_is_no_warehouse_any_more(tmp_path: Path) -> None:
    async with SqliteBroker(SqliteBroker.Options(), tmp_path) as broker:
        await broker.subscribe(LOG_QUEUE, "recorder")
        await broker.publish([message(LOG_QUEUE, object_row(number)) for number in range(30)])
    with capture_logs() as logs:
        async with SqliteBroker(SqliteBroker.Options(), tmp_path) as broker, recording(broker, None):
            await broker.publish([message(LOG_QUEUE, object_row(31))])
            await settled(broker)
            assert (await broker.lag(LOG_QUEUE, "recorder")).messages == 0
    (told,) = [each for each in logs if each["event"] == "rows.dropped"]
    assert (told["topic"], told["rows"]) == (LOG_QUEUE, 30)


class Elsewhere(MemoryBroker, Remote):
    """A broker that others share."""


async def test_what_others_may_record_is_left_alone(tmp_path: Path) -> None:
    async with Elsewhere(Elsewhere.Options(), tmp_path) as broker:
        await broker.subscribe(LOG_QUEUE, "recorder")
        await broker.publish([message(LOG_QUEUE, object_row())])
        async with recording(broker, None):
            await asyncio.sleep(0.05)
            assert (await broker.lag(LOG_QUEUE, "recorder")).messages == 1
