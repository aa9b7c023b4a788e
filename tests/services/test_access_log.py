from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from dicomnode import metrics
from dicomnode.errors import Full, PluginError, Unavailable
from dicomnode.model.messages import ACCESS_QUEUE, WadoAccessLog
from dicomnode.ports.broker import Message
from dicomnode.services import access_log as module
from dicomnode.services.access_log import AccessLog
from dicomnode_memory.broker import MemoryBroker
from tests.contracts.rows import access_row


class Moody(MemoryBroker):
    """A broker that is away, full or slow as a test says."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(MemoryBroker.Options(), tmp_path)
        self.mood: PluginError | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.calls: list[int] = []

    async def publish(self, messages: Sequence[Message]) -> None:
        self.calls.append(len(messages))
        await self.free.wait()
        if self.mood is not None:
            raise self.mood
        await super().publish(messages)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Moody]:
    async with Moody(tmp_path) as broker:
        await broker.subscribe(ACCESS_QUEUE, "test")
        yield broker


async def told(broker: Moody, count: int) -> list[WadoAccessLog]:
    """Return the next `count` rows."""
    queue = await broker.subscribe(ACCESS_QUEUE, "test")
    rows: list[WadoAccessLog] = []
    async with asyncio.timeout(20):
        while len(rows) < count:
            taken = await queue.take(count - len(rows))
            await queue.ack(taken)
            rows += [msgspec.json.decode(each.message.body, type=WadoAccessLog) for each in taken]
    return rows


def lost() -> float:
    return metrics.REGISTRY.get_sample_value("dicomnode_access_log_lost_total") or 0.0


def note(log: AccessLog, *numbers: int) -> None:
    for number in numbers:
        log.note(lambda number=number: access_row(number), 100)  # type: ignore[misc]


async def test_what_was_noted_is_published_in_batches_and_in_order(broker: Moody) -> None:
    async with AccessLog(broker) as log:
        note(log, *range(1200))
        rows = await told(broker, 1200)
    assert [row.request_id for row in rows] == [access_row(number).request_id for number in range(1200)]
    assert broker.calls == [500, 500, 200]


async def test_it_is_published_within_moments(broker: Moody) -> None:
    async with AccessLog(broker) as log:
        await asyncio.sleep(0.05)
        started = asyncio.get_running_loop().time()
        note(log, 1)
        await told(broker, 1)
        assert asyncio.get_running_loop().time() - started < 5
        note(log, 2)
        (row,) = await told(broker, 1)
    assert row.request_id == access_row(2).request_id


async def test_what_waits_goes_out_when_the_door_is_shut(broker: Moody) -> None:
    async with AccessLog(broker) as log:
        note(log, 1, 2, 3)
    assert len(await told(broker, 3)) == 3


async def test_a_broker_that_is_slow_keeps_nobody_waiting_and_memory_bounded(broker: Moody) -> None:
    before = lost()
    broker.free.clear()
    async with AccessLog(broker, most=50) as log:
        with capture_logs() as logs:
            started = asyncio.get_running_loop().time()
            note(log, *range(80))
            assert asyncio.get_running_loop().time() - started < 1
        broker.free.set()
        rows = await told(broker, 50)
    assert lost() == before + 30
    assert len({row.request_id for row in rows}) == 50
    assert [each["event"] for each in logs] == ["access_log.lost"], "once, not for each"


async def test_long_rows_are_bounded_by_their_size(broker: Moody) -> None:
    before = lost()
    broker.free.clear()
    async with AccessLog(broker, most_bytes=1000) as log:
        note(log, *range(25))
        broker.free.set()
        assert len(await told(broker, 10)) == 10
        note(log, 26)
        assert len(await told(broker, 1)) == 1
    assert lost() == before + 15


@pytest.mark.parametrize("mood", [Unavailable("broker", "away"), Full("broker")])
async def test_a_broker_that_is_away_or_full_is_tried_again_and_nothing_comes_twice(
    mood: PluginError, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.01)
    before, broker.mood = lost(), mood
    async with AccessLog(broker) as log:
        with capture_logs() as logs:
            note(log, 1, 2)
            async with asyncio.timeout(20):
                while len(broker.calls) < 3:
                    await asyncio.sleep(0.01)
        note(log, 3)
        broker.mood = None
        rows = await told(broker, 3)
    assert [row.request_id for row in rows] == [access_row(number).request_id for number in (1, 2, 3)]
    assert lost() == before
    assert [each["event"] for each in logs] == ["access_log.delayed"]


async def test_what_cannot_be_published_in_the_end_is_counted(broker: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_S", 0.05)
    before = lost()
    for stuck in (True, False):
        broker.mood = None if stuck else Unavailable("broker", "away")
        if stuck:
            broker.free.clear()
        started = asyncio.get_running_loop().time()
        with capture_logs() as logs:
            async with AccessLog(broker) as log:
                note(log, 1, 2)
        assert asyncio.get_running_loop().time() - started < 2
        assert [each["event"] for each in logs if each["log_level"] == "error"] == ["access_log.lost"]
        broker.free.set()
    assert lost() == before + 4


async def test_recovery_is_told(broker: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    with capture_logs() as logs:
        async with AccessLog(broker, most=2) as log:
            note(log, 1, 2, 3)
            await told(broker, 2)
            await asyncio.sleep(0.05)
            note(log, 4)
            await told(broker, 1)
    assert [each["event"] for each in logs] == ["access_log.lost", "access_log.back"]
