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
    await CatchUp(gate, 30.0).settled("t", "g")
    assert gate.open.is_set()


async def test_it_lets_go_and_then_waits_no_more_until_the_index_has_caught_up() -> None:
    gate = Gate()
    catch_up = CatchUp(gate, 0.3)
    started = time.monotonic()
    await catch_up.settled("t", "g")
    first = time.monotonic() - started
    for _ in range(3):
        await catch_up.settled("t", "g")
    assert time.monotonic() - started - first < 3 * first
    gate.open.set()
    await catch_up.settled("t", "g")
    gate.open.clear()
    waiting = asyncio.create_task(catch_up.settled("t", "g"))
    await asyncio.sleep(0.15)
    assert not waiting.done(), "it has caught up once, so it is waited for again"
    gate.open.set()
    await waiting


async def test_cancellation_goes_through() -> None:
    waiting = asyncio.create_task(CatchUp(Gate(), 30.0).settled("t", "g"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
