"""However a peer lays its messages out in PDUs and fragments, the same is kept (PS3.8 9.3.5, annex E)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dicomnode.dimse import command, pdu
from tests.dimse.peers import RawPeer, Recording, listening
from tests.dimse.requests import CT, echo, p_data, pdv, request

DATA = bytes(range(256)) * 4
COMMAND = command.encode_store_rq(1, CT, "1.2.3")
COMMAND_PART, COMMAND_LAST, DATA_PART, DATA_LAST = 1, 3, 0, 2


def _cut(data: bytes, size: int, part: int, last: int) -> list[bytes]:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [pdv(3, part, piece) for piece in pieces[:-1]] + [pdv(3, last, pieces[-1])]


def _fragments(size: int) -> list[bytes]:
    return _cut(COMMAND, size, COMMAND_PART, COMMAND_LAST) + _cut(DATA, size, DATA_PART, DATA_LAST)


def _in_pdus(pdvs: Sequence[bytes], each: int) -> bytes:
    return b"".join(p_data(*pdvs[at : at + each]) for at in range(0, len(pdvs), each))


LAYOUTS = {
    "fragments of one byte, a PDU each": _in_pdus(_fragments(1), 1),
    "fragments of one byte, all in one PDU": _in_pdus(_fragments(1), 10_000),
    "fragments of one byte, seven in a PDU": _in_pdus(_fragments(1), 7),
    "command and data in one PDU": p_data(pdv(3, COMMAND_LAST, COMMAND), pdv(3, DATA_LAST, DATA)),
    "the end of the command and the begin of the data in one PDU": (
        p_data(pdv(3, COMMAND_PART, COMMAND[:10]))
        + p_data(pdv(3, COMMAND_LAST, COMMAND[10:]), pdv(3, DATA_PART, DATA[:10]))
        + p_data(pdv(3, DATA_LAST, DATA[10:]))
    ),
    "empty fragments in between": p_data(
        pdv(3, COMMAND_PART, b""),
        pdv(3, COMMAND_PART, COMMAND),
        pdv(3, COMMAND_LAST, b""),
        pdv(3, DATA_PART, b""),
        pdv(3, DATA_PART, DATA),
        pdv(3, DATA_PART, b""),
        pdv(3, DATA_LAST, b""),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
async def test_the_layout_does_not_matter(layout: bytes) -> None:
    handlers = Recording()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        for _ in range(3):
            await peer.send(layout)
            assert (await peer.response()).status == 0
        await peer.close()
    assert handlers.data == [DATA] * 3


async def test_several_messages_in_one_pdu_are_answered_in_turn() -> None:
    handlers = Recording()
    one = pdv(3, COMMAND_LAST, command.encode_store_rq(2, CT, "1.2.4")) + pdv(3, DATA_LAST, b"one")
    two = pdv(3, COMMAND_LAST, command.encode_store_rq(4, CT, "1.2.5")) + pdv(3, DATA_LAST, b"two")
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(p_data(echo(1)[6:], one, echo(3)[6:], two, echo(5)[6:]))
        assert [(await peer.response()).responding_to for _ in range(5)] == [1, 2, 3, 4, 5]
        await peer.close()
    assert handlers.data == [b"one", b"two"]


BREACHES = {
    "a fragment that ends behind its PDU": pdu.HEAD.pack(4, 20) + pdv(3, COMMAND_LAST, bytes(40))[:20],
    "a fragment without a control header": pdu.HEAD.pack(4, 6) + b"\0\0\0\1\3\3",
    "a PDU with half a fragment's head": pdu.HEAD.pack(4, 6 + 8 + 3) + pdv(3, COMMAND_PART, COMMAND[:6]) + b"\0" * 5,
    "a data set on another context than its command": p_data(pdv(3, COMMAND_LAST, COMMAND), pdv(1, DATA_LAST, DATA)),
    "a command on another context within a data set": p_data(
        pdv(3, COMMAND_LAST, COMMAND), pdv(1, COMMAND_LAST, COMMAND)
    ),
    "a command set in fragments that is too long": p_data(*[pdv(3, COMMAND_PART, bytes(60_000))] * 2),
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES.keys())
async def test_what_cannot_be_laid_out_so_is_aborted(breach: bytes) -> None:
    handlers = Recording()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(breach)
        assert await peer.pdu() == (pdu.ABORT, bytes((0, 0, 2, pdu.INVALID_VALUE)))
        await peer.close()
    assert handlers.data == []


@pytest.mark.parametrize("theirs", [0, 16, 64, 4096, 2**32 - 1])
async def test_our_answers_keep_to_the_longest_pdu_of_the_peer(theirs: int) -> None:
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate(request(max_pdu=theirs))
        await peer.send(echo())
        command_set, last = b"", False
        while not last:
            answer = await peer.pdu()
            assert answer is not None
            assert answer[0] == pdu.P_DATA_TF
            assert theirs == 0 or len(answer[1]) <= theirs
            command_set += answer[1][6:]
            last = bool(answer[1][5] & 2)
        assert command.decode(command_set).status == 0
        await peer.close()
