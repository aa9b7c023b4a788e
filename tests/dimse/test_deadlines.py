from __future__ import annotations

import asyncio

import pytest

from dicomnode.config import LimitsTable
from dicomnode.dimse import command, pdu
from tests.dimse.peers import RawPeer, Recording, listening
from tests.dimse.requests import CT, p_data, pdv, request, store
from tests.dimse.test_listener import counted

TIMED_OUT = (pdu.ABORT, b"\0\0\2\0")
LONG = store(b"data" * 1000)


@pytest.mark.parametrize(
    ("sent", "begun"), [(LONG, 100), (LONG, 1000), (pdu.HEAD.pack(5, 4) + b"\0", 7)], ids=["command", "data", "release"]
)
async def test_a_pdu_that_trickles_in_is_ended_though_something_always_comes(sent: bytes, begun: int) -> None:
    async with listening(Recording(), LimitsTable(pdu_s=0.3)) as listener, counted("timed_out"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(sent[:begun])

        async def trickle() -> None:
            for byte in sent[begun:]:
                await peer.send(bytes((byte,)))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await peer.pdu() == TIMED_OUT
        trickling.cancel()
        await asyncio.wait([trickling])
        await peer.close()


async def test_a_request_that_trickles_in_is_ended() -> None:
    async with listening(Recording(), LimitsTable(artim_s=0.3)) as listener, counted("timed_out"):
        peer = await RawPeer.connect(listener)

        async def trickle() -> None:
            for byte in request():
                await peer.send(bytes((byte,)))
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert await peer.pdu() is None
        trickling.cancel()
        await asyncio.wait([trickling])
        await peer.close()


async def test_an_object_may_take_longer_than_each_of_its_pdus() -> None:
    handlers = Recording()
    async with listening(handlers, LimitsTable(pdu_s=0.3)) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(p_data(pdv(3, 3, command.encode_store_rq(1, CT, "1.2.3"))))
        for _ in range(20):
            await peer.send(p_data(pdv(3, 0, b"ab")))
            await asyncio.sleep(0.05)
        await peer.send(p_data(pdv(3, 2, b"ab")))
        assert (await peer.response()).status == 0
        await peer.close()
    assert handlers.data == [b"ab" * 21]


async def test_a_sender_does_not_pay_for_a_slow_storage() -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    data = bytes(20_000_000)
    async with listening(handlers, LimitsTable(pdu_s=0.2, held_in_memory=1000, pdu_received=2**25)) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        sending = asyncio.create_task(peer.send(store(data)))
        await handlers.begun.wait()
        await asyncio.sleep(1)  # several times the deadline, while nothing of ours reads
        handlers.gate.set()
        await sending
        assert (await peer.response()).status == 0
        await peer.close()
    assert handlers.data == [data]
