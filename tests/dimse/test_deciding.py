"""What may come while it is found out who asks (PS3.8 9.2.1, Sta3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dicomnode.config import LimitsTable, StoreScpTable
from dicomnode.dimse import pdu
from dicomnode.dimse.items import Associate
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.responder import Caller
from dicomnode.dimse.scp import Visitor
from tests.dimse.peers import RawPeer, Recording, anyone
from tests.dimse.requests import echo, request, store
from tests.dimse.test_listener import counted


class Doorman:
    """Lets in who asks once `gate` is open; `problem` is what is wrong with everyone."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.problem = problem
        self.cancelled = 0

    async def __call__(self, request: Associate, visitor: Visitor) -> Caller:
        self.asked.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.problem is not None:
            raise self.problem
        return anyone(request, visitor)


@asynccontextmanager
async def guarded(doorman: Doorman, limits: LimitsTable | None = None) -> AsyncIterator[tuple[Listener, RawPeer]]:
    listener = Listener(StoreScpTable(port=0, limits=limits or LimitsTable(drain_s=1)), doorman, Recording())
    await listener.open()
    peer = await RawPeer.connect(listener)
    try:
        yield listener, peer
    finally:
        await listener.drain()
        await peer.close()


async def test_who_is_let_in_later_is_served() -> None:
    doorman = Doorman()
    async with guarded(doorman) as (_, peer), counted("released"):
        await peer.send(request())
        await doorman.asked.wait()
        doorman.gate.set()
        answer = await peer.pdu()
        assert answer is not None
        assert answer[0] == pdu.ASSOCIATE_AC
        await peer.send(echo())
        assert (await peer.response()).status == 0
        await peer.send(pdu.release_rq())
        assert await peer.pdu() == (pdu.RELEASE_RP, b"\0\0\0\0")


async def test_who_is_refused_later_is_told() -> None:
    doorman = Doorman(Rejection("not you", 1, 1, 3))
    async with guarded(doorman) as (_, peer), counted("rejected"):
        await peer.send(request())
        doorman.gate.set()
        assert await peer.pdu() == (pdu.ASSOCIATE_RJ, bytes((0, 1, 1, 3)))


async def test_a_fault_of_ours_refuses_for_now() -> None:
    doorman = Doorman(KeyError("a bug"))
    async with guarded(doorman) as (_, peer), counted("rejected"):
        await peer.send(request())
        doorman.gate.set()
        assert await peer.pdu() == (pdu.ASSOCIATE_RJ, bytes((0, 2, 1, 1)))


@pytest.mark.parametrize("early", [echo(), store(b"data"), request(), pdu.release_rq(), pdu.release_rp()])
@pytest.mark.parametrize("together", [True, False])
async def test_what_comes_too_early_is_aborted_by_the_provider(early: bytes, together: bool) -> None:
    doorman = Doorman()
    async with guarded(doorman) as (_, peer), counted("aborted"):
        if together:
            await peer.send(request() + early)
        else:
            await peer.send(request())
            await doorman.asked.wait()
            await peer.send(early)
        assert await peer.pdu() == (pdu.ABORT, bytes((0, 0, 2, pdu.UNEXPECTED_PDU)))  # AA-8
        doorman.gate.set()


@pytest.mark.parametrize(("how", "outcome"), [("abort", "aborted"), ("close", "lost"), ("reset", "lost")])
async def test_who_leaves_meanwhile_is_forgotten(how: str, outcome: str) -> None:
    doorman = Doorman()
    async with guarded(doorman) as (listener, peer), counted(outcome):
        await peer.send(request())
        await doorman.asked.wait()
        if how == "abort":
            await peer.send(pdu.abort(by_provider=False))
        elif how == "reset":
            peer.reset()
        await peer.close()
    assert doorman.cancelled == 1
    assert not listener._sockets


async def test_a_decision_that_takes_too_long_is_none() -> None:
    doorman = Doorman()
    async with guarded(doorman, LimitsTable(artim_s=0.2, drain_s=1)) as (_, peer), counted("timed_out"):
        await peer.send(request())
        assert await peer.pdu() is None
    assert doorman.cancelled == 1


async def test_a_node_that_stops_lets_nobody_in_who_waits() -> None:
    doorman = Doorman()
    async with guarded(doorman) as (listener, peer), counted("aborted"):
        await peer.send(request())
        await doorman.asked.wait()
        await listener.drain()
        assert await peer.pdu() == (pdu.ABORT, b"\0\0\0\0")
    assert doorman.cancelled == 1
