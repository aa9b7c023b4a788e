"""In each state of both roles, what the wire shows for each PDU is what the standard's table says (PS3.8 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dicomnode.config import LimitsTable
from dicomnode.dimse import pdu, state
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.protocol import Ending, UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.errors import PeerError
from tests.dimse.requests import echo, request

CONTEXTS = frozenset({1, 3})
ACCEPTANCE = b"\x02" + request()[1:]
REJECTION = pdu.associate_rj(Rejection("", 1, 1, 1))


class Told:
    """Sits above an upper layer and writes down what it is told; does nothing by itself."""

    def __init__(self, *, requestor: bool, limits: LimitsTable | None = None) -> None:
        self.events: list[str] = []
        self.over = asyncio.Event()
        self.gone = asyncio.Event()
        self.ending: Ending | None = None
        self.layer = UpperLayer(self, limits or LimitsTable(), requestor=requestor)

    def opened(self) -> None:
        if self.layer.machine.requestor:
            self.layer.request(request())

    def associate(self, kind: int, body: bytes) -> None:
        self.events.append(f"associate {kind}")
        if kind == pdu.ASSOCIATE_RJ:
            self.layer.refused(Rejection("", 1, 1, 1))

    def message(self, message: Message) -> bool:
        self.events.append("message")
        return True

    def release_asked(self) -> None:
        self.events.append("release asked")

    def ended(self, ending: Ending, problem: PeerError) -> None:
        self.ending = ending
        self.over.set()

    def closed(self) -> None:
        self.gone.set()


class Pair:
    """An upper layer and, at the other end of its socket, somebody who says exactly the bytes told."""

    def __init__(self, told: Told, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.told = told
        self.layer = told.layer
        self._reader = reader
        self._writer = writer

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def heard(self) -> bytes:
        """Return the next PDU, b"" when the socket is closed."""
        try:
            async with asyncio.timeout(20):
                head = await self._reader.readexactly(6)
                return head + await self._reader.readexactly(int.from_bytes(head[2:], "big"))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return b""

    async def until(self, number: int) -> None:
        """Wait until the state machine is in that state."""
        async with asyncio.timeout(20):
            while self.layer.machine.state != number:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def connected(*, requestor: bool, limits: LimitsTable | None = None) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    told = Told(requestor=requestor, limits=limits)
    if requestor:
        arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = loop.create_future()
        server = await asyncio.start_server(lambda r, w: arrived.set_result((r, w)), "127.0.0.1", 0)
        await loop.create_connection(lambda: told.layer, *server.sockets[0].getsockname())
        reader, writer = await arrived
    else:
        server = await loop.create_server(lambda: told.layer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    pair = Pair(told, reader, writer)
    try:
        yield pair
    finally:
        writer.close()
        server.close()
        await asyncio.wait_for(told.gone.wait(), 20)


async def _stand(pair: Pair) -> None:
    if pair.layer.machine.requestor:
        assert (await pair.heard())[0] == pdu.ASSOCIATE_RQ
        await pair.say(ACCEPTANCE)
        await pair.until(state.ESTABLISHED)
        while not pair.told.events:
            await asyncio.sleep(0.005)
        pair.layer.establish(CONTEXTS)
    else:
        await pair.say(request())
        while not pair.told.events:
            await asyncio.sleep(0.005)
        pair.layer.accept(ACCEPTANCE, CONTEXTS)
        assert (await pair.heard())[0] == pdu.ASSOCIATE_AC
    pair.told.events.clear()


async def _bring(pair: Pair, number: int) -> None:
    """Bring the upper layer into that state, as a peer and its own user would."""
    if number == state.AWAITING_REQUEST:
        return
    if number == state.AWAITING_ANSWER:
        await pair.heard()
    elif number == state.AWAITING_DECISION:
        await pair.say(request())
        while not pair.told.events:
            await asyncio.sleep(0.005)
        pair.told.events.clear()
    else:
        await _stand(pair)
        if number in (7, 9, 10, 11, 12):
            pair.layer.release()
            assert await pair.heard() == pdu.release_rq()
        if number in (8, 9, 10, 11, 12):
            await pair.say(pdu.release_rq())
            await pair.until({11: 9, 12: 10}.get(number, number))
        if number == 11:
            pair.layer.answer_release()
            assert await pair.heard() == pdu.release_rp()
        if number == 12:
            await pair.say(pdu.release_rp())
        pair.told.events.clear()
    await pair.until(number)


PDUS = {
    pdu.ASSOCIATE_RQ: request(),
    pdu.ASSOCIATE_AC: ACCEPTANCE,
    pdu.ASSOCIATE_RJ: REJECTION,
    pdu.P_DATA_TF: echo(),
    pdu.RELEASE_RQ: pdu.release_rq(),
    pdu.RELEASE_RP: pdu.release_rp(),
    pdu.ABORT: pdu.abort(by_provider=False),
}
STATES = {False: (2, 3, 6, 7, 8, 10, 12), True: (5, 6, 7, 8, 9, 11)}
CASES = [(requestor, number, kind) for requestor, states in STATES.items() for number in states for kind in PDUS]


@pytest.mark.parametrize(("requestor", "number", "kind"), CASES)
async def test_the_wire_does_what_the_table_says(requestor: bool, number: int, kind: int) -> None:
    action = state.TRANSITIONS[state.EVENT_OF_PDU[kind], number]
    async with connected(requestor=requestor) as pair:
        await _bring(pair, number)
        await pair.say(PDUS[kind])
        if action == "AA-1":
            assert await pair.heard() == pdu.abort(by_provider=False)
        elif action == "AA-8":
            assert await pair.heard() == pdu.abort(by_provider=True, reason=pdu.UNEXPECTED_PDU)
        elif action in ("AA-2", "AA-3", "AE-4", "AR-3"):
            assert await pair.heard() == b""
            await asyncio.wait_for(pair.told.over.wait(), 20)
            expected = {"AE-4": Ending.REJECTED, "AR-3": Ending.RELEASED}.get(action, Ending.ABORTED)
            assert pair.told.ending is expected
        else:
            await _goes_on(pair, action)


async def _goes_on(pair: Pair, action: str) -> None:
    expected = {
        "AE-3": ["associate 2"],
        "AE-6": ["associate 1"],
        "DT-2": ["message"],
        "AR-6": ["message"],
        "AR-2": ["release asked"],
        "AR-8": ["release asked"],
        "AR-10": [],
    }[action]
    after = {"AE-3": 6, "AE-6": 3, "DT-2": 6, "AR-6": 7, "AR-2": 8, "AR-10": 12}
    requestor = pair.layer.machine.requestor
    await pair.until(after.get(action, 9 if requestor else 10))
    while len(pair.told.events) < len(expected):
        await asyncio.sleep(0.005)
    assert pair.told.events == expected
    assert not pair.told.over.is_set()


@pytest.mark.parametrize("requestor", [True, False])
@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (b"\x42\0\0\0\0\4abcd", pdu.UNRECOGNIZED_PDU),
        (pdu.HEAD.pack(pdu.P_DATA_TF, 2**32 - 1), pdu.INVALID_VALUE),
        (pdu.HEAD.pack(pdu.RELEASE_RQ, 5), pdu.INVALID_VALUE),
        (pdu.HEAD.pack(pdu.ABORT, 2**31), pdu.INVALID_VALUE),
        (pdu.HEAD.pack(pdu.ASSOCIATE_RQ, 2**32 - 1), pdu.INVALID_VALUE),
    ],
)
@pytest.mark.parametrize("number", [6, 7, 8])
async def test_an_invalid_pdu_is_told_by_the_provider(requestor: bool, odd: bytes, reason: int, number: int) -> None:
    async with connected(requestor=requestor) as pair:
        await _bring(pair, number)
        await pair.say(odd)
        assert await pair.heard() == pdu.abort(by_provider=True, reason=reason)
        assert pair.layer.machine.state == state.AWAITING_CLOSE


@pytest.mark.parametrize("number", [2, 3, 5, 6, 7, 8, 9, 10, 11, 12])
async def test_an_abort_of_ours_says_that_it_is_the_users(number: int) -> None:
    async with connected(requestor=number in STATES[True] and number not in STATES[False]) as pair:
        await _bring(pair, number)
        pair.layer.abort(PeerError("no more"))
        assert await pair.heard() == pdu.abort(by_provider=False)
        assert pair.told.ending is Ending.ABORTED


@pytest.mark.parametrize(("requestor", "number"), [(False, 2), (False, 3), (True, 5)])
async def test_artim_closes_whoever_does_not_come_to_an_association(requestor: bool, number: int) -> None:
    async with connected(requestor=requestor, limits=LimitsTable(artim_s=0.2)) as pair:
        await _bring(pair, number)
        assert await pair.heard() == b""
        assert pair.told.ending is Ending.TIMED_OUT


@pytest.mark.parametrize("requestor", [True, False])
@pytest.mark.parametrize("how", ["abort", "breach", "release"])
async def test_artim_closes_whoever_does_not_close_after_the_end(requestor: bool, how: str) -> None:
    async with connected(requestor=requestor, limits=LimitsTable(artim_s=0.2)) as pair:
        await _stand(pair)
        if how == "abort":
            pair.layer.abort(PeerError("no more"))
        elif how == "breach":
            await pair.say(b"\x42\0\0\0\0\4abcd")
        else:
            await pair.say(pdu.release_rq())
            await pair.until(8)
            pair.layer.answer_release()
        assert (await pair.heard())[0] in (pdu.ABORT, pdu.RELEASE_RP)
        assert await pair.heard() == b""  # closed by us, though the peer still listens


@pytest.mark.parametrize("early", [True, False])
async def test_when_both_ask_for_release_the_acceptor_answers_last(early: bool) -> None:
    async with connected(requestor=False) as pair:
        await _bring(pair, 10)
        if early:
            pair.layer.answer_release()
        await pair.say(pdu.release_rp())
        if not early:
            await pair.until(12)
            pair.layer.answer_release()
        assert await pair.heard() == pdu.release_rp()
        assert pair.told.ending is Ending.RELEASED


async def test_when_both_ask_for_release_the_requestor_answers_first() -> None:
    async with connected(requestor=True) as pair:
        await _bring(pair, 9)
        pair.layer.answer_release()
        assert await pair.heard() == pdu.release_rp()
        await pair.say(pdu.release_rp())
        assert await pair.heard() == b""
        assert pair.told.ending is Ending.RELEASED


async def test_after_the_end_nothing_is_heard_or_said() -> None:
    async with connected(requestor=False) as pair:
        await _stand(pair)
        pair.layer.abort(PeerError("no more"))
        assert (await pair.heard())[0] == pdu.ABORT
        for raw in (*PDUS.values(), b"\x42" * 100):
            await pair.say(raw)
        await asyncio.sleep(0.05)
        assert pair.told.events == []
        assert pair.layer.machine.state == state.AWAITING_CLOSE
