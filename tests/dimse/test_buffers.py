"""A connection that has ended holds no buffers, however late the garbage collector comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dicomnode.dimse import pdu
from dicomnode.dimse.protocol import UpperLayer
from tests.dimse.peers import RawPeer, Recording, listening
from tests.dimse.requests import request, store


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come about in 20 s")


@pytest.mark.parametrize("last", [pdu.release_rq(), pdu.abort(by_provider=False), b"\xff", b""])
async def test_buffers_are_let_go_with_the_connection(last: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[UpperLayer] = []
    made = UpperLayer.connection_made

    def keep(layer: UpperLayer, transport: asyncio.BaseTransport) -> None:
        layers.append(layer)
        made(layer, transport)

    monkeypatch.setattr(UpperLayer, "connection_made", keep)
    handlers = Recording()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate(request())
        await peer.send(store(b"data" * 50_000))
        assert (await peer.response()).status == 0
        (layer,) = layers
        assert len(layer.receiver._scratch) > 100_000
        assert len(layer.receiver.room._buffer) >= 200_000
        await peer.send(last)
        await peer.close()
        await _until(lambda: not layer.receiver._scratch)
        assert not layer.receiver.room._buffer
    assert handlers.data == [b"data" * 50_000]


async def test_what_a_handler_was_lent_stays_when_the_peer_goes() -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(store(b"data" * 1000))
        await handlers.begun.wait()
        peer.reset()
        await asyncio.sleep(0)
        await _until(lambda: all(waiting.layer.over for waiting in listener._sockets))
        handlers.gate.set()
        await _until(lambda: bool(handlers.data))
    assert handlers.data == [b"data" * 1000]
