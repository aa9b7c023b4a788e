from __future__ import annotations

import asyncio

import pytest

from dicomnode.dimse import outbox as module
from dicomnode.dimse.outbox import Outbox
from dicomnode.errors import PeerError


class Layer:
    """Writes down what is sent; the only part of an upper layer that an outbox needs."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.over = False

    def send(self, *parts: bytes) -> None:
        if self.over:
            raise PeerError("over")
        self.sent.append(b"".join(parts))


async def test_what_is_said_before_the_loop_turns_leaves_in_one_write() -> None:
    layer = Layer()
    outbox = Outbox(layer)  # type: ignore[arg-type]
    for part in (b"a", b"b", b"c"):
        outbox.put([part, memoryview(b"-")])
    assert layer.sent == []
    await asyncio.sleep(0)
    assert layer.sent == [b"a-b-c-"]
    await asyncio.sleep(0)
    outbox.put([b"d"])
    outbox.flush()
    outbox.flush()
    assert layer.sent[1:] == [b"d"]


async def test_no_more_than_so_much_waits() -> None:
    layer = Layer()
    outbox = Outbox(layer)  # type: ignore[arg-type]
    for _ in range(5):
        outbox.put([bytes(module._ENOUGH // 2)])
    assert [len(sent) for sent in layer.sent] == [module._ENOUGH] * 2
    await asyncio.sleep(0)
    assert len(layer.sent) == 3


async def test_an_association_that_is_over_is_told_to_whoever_puts() -> None:
    layer = Layer()
    outbox = Outbox(layer)  # type: ignore[arg-type]
    outbox.put([b"a"])
    layer.over = True
    await asyncio.sleep(0)  # nobody listens, nothing is raised
    with pytest.raises(PeerError):
        outbox.put([bytes(module._ENOUGH)])
