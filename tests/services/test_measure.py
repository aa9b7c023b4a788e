from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode import metrics
from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Broker, Lag, Message
from dicomnode.services import measure as module
from dicomnode.services.measure import Measure
from dicomnode_memory.broker import MemoryBroker

QUEUE = ("measured", "group")


def told(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, {"topic": QUEUE[0], "group": QUEUE[1]})


def lag() -> float | None:
    return told("dicomnode_queue_lag_messages")


class Told(MemoryBroker):
    """A broker whose lag is what a test says, and which counts how often it is asked."""

    def __init__(self, tmp_path: Path, answer: Callable[[], Lag]) -> None:
        super().__init__(MemoryBroker.Options(), tmp_path)
        self.answer = answer
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()

    async def lag(self, topic: str, group: str) -> Lag:
        self.asked += 1
        await self.free.wait()
        return self.answer()


async def test_the_gauges_say_what_waits_and_since_when(tmp_path: Path) -> None:
    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        queue = await broker.subscribe(*QUEUE)
        measure = Measure(broker, (QUEUE,))
        await measure.refresh()
        assert (lag(), told("dicomnode_queue_oldest_seconds")) == (0.0, 0.0)
        await broker.publish([Message("measured", "k", b"%d" % number) for number in range(3)])
        await measure.refresh()
        assert lag() == 3.0
        assert (told("dicomnode_queue_oldest_seconds") or 0.0) > 0.0
        await queue.ack(await queue.take(10))
        await measure.refresh()
        assert lag() == 0.0


async def test_a_broker_that_is_away_leaves_no_number(tmp_path: Path) -> None:
    def away() -> Lag:
        raise Unavailable("broker", "away")

    broker = Told(tmp_path, lambda: Lag(7, 1.5))
    measure = Measure(broker, (QUEUE,))
    await measure.refresh()
    assert lag() == 7.0
    broker.answer = away
    await measure.refresh()
    assert lag() is None
    broker.answer = lambda: Lag(2, 1.0)
    await measure.refresh()
    assert lag() == 2.0


async def test_a_broker_that_is_slow_holds_nobody_up_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_S", 0.01)
    broker = Told(tmp_path, lambda: Lag(9, 1.0))
    measure = Measure(broker, (QUEUE,))
    broker.free.clear()
    for _ in range(3):
        await asyncio.wait_for(measure.refresh(), 20)
        assert lag() is None
    assert broker.asked == 1
    broker.free.set()
    monkeypatch.setattr(module, "_MOST_S", 20.0)
    await measure.refresh()
    assert lag() == 9.0


async def test_where_nothing_is_worked_on_nothing_is_asked(tmp_path: Path) -> None:
    broker = Told(tmp_path, lambda: Lag(1, 1.0))
    await Measure(broker, ()).refresh()
    assert broker.asked == 0


_: type[Broker] = Told
