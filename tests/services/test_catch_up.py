from __future__ import annotations

import asyncio
import time

import pytest

from dicomnode.ports.broker import Barrier
from dicomnode.services.catch_up import CatchUp


class Gate(Barrier):
    """A barrier that opens when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def settled(self, topic: str, group: str) -> None:
        await self.open.wait()


async def test_it_waits_for_what_comes_soon() -> None:
    gate = Gate()
    asyncio.get_running_loop().call_later(0.05, gate.open.set)
    await CatchUp(gate, 30.0).settled()
    assert gate.open.is_set()


async def test_it_lets_go_and_then_waits_no_more_until_the_index_has_caught_up() -> None:
    gate = Gate()
    catch_up = CatchUp(gate, 0.3)
    started = time.monotonic()
    await catch_up.settled()
    first = time.monotonic() - started
    for _ in range(3):
        await catch_up.settled()
    assert time.monotonic() - started - first < 3 * first
    gate.open.set()
    await catch_up.settled()
    gate.open.clear()
    waiting = asyncio.create_task(catch_up.settled())
    await asyncio.sleep(0.15)
    assert not waiting.done(), "it has caught up once, so it is waited for again"
    gate.open.set()
    await waiting


class Closed(Gate):
    """A barrier that must not be asked."""

    async def settled(self, topic: str, group: str) -> None:
        raise AssertionError((topic, group))


async def test_where_nothing_can_tell_nothing_is_waited_for() -> None:
    await CatchUp(None, None).settled()
    with pytest.raises(AssertionError, match="storage_queue"):
        await CatchUp(Closed(), None).settled()


async def test_without_a_limit_it_waits_for_as_long_as_it_takes() -> None:
    gate = Gate()
    waiting = asyncio.create_task(CatchUp(gate, None).settled())
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert not waiting.done()
    gate.open.set()
    await asyncio.wait_for(waiting, 20)


async def test_cancellation_goes_through() -> None:
    waiting = asyncio.create_task(CatchUp(Gate(), 30.0).settled())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
