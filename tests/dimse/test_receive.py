from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.config import LimitsTable
from dicomnode.dimse import command, pdu
from dicomnode.dimse.pdu import Breach, Garbage
from dicomnode.dimse.receive import Message, Receiver
from dicomnode.dimse.room import Rest
from tests.dimse.requests import CT, echo, p_data, pdv, request, store

LIMITS = LimitsTable(held_in_memory=1000, data_set=200_000, pdu_received=100_000, command_set=2000)


class Recorder:
    """Keeps what a receiver hands up; done with each message at once unless told to be slow."""

    def __init__(self, limits: LimitsTable = LIMITS, *, slow: bool = False) -> None:
        self.slow = slow
        self.kinds: list[int] = []
        self.controls: list[tuple[int, bytes]] = []
        self.messages: list[tuple[int, int, bytes | None]] = []
        self.rests: list[Rest] = []
        self.receiver = Receiver(self, limits)

    def begins(self, kind: int) -> None:
        self.kinds.append(kind)

    def control(self, kind: int, body: bytes) -> None:
        self.controls.append((kind, body))

    def message(self, message: Message) -> bool:
        data = None if message.data is None else bytes(message.data)
        self.messages.append((message.context_id, message.command.message_id, data))
        if message.rest is not None:
            self.rests.append(message.rest)
        return not self.slow and message.rest is None

    def wanted(self) -> None:
        self.receiver.go_on()

    def feed(self, data: bytes, sizes: Iterable[int] = (1 << 30,)) -> bytes:
        """Feed `data` in reads of at most `sizes`; return what is left when the receiver is held."""
        steps: Iterator[int] = cycle(sizes)
        while data and not self.receiver.held:
            view = self.receiver.buffer()
            assert len(view)
            size = min(len(view), next(steps), len(data))
            view[:size] = data[:size]
            self.receiver.received(size)
            data = data[size:]
        return data


def established(limits: LimitsTable = LIMITS, *, slow: bool = False) -> Recorder:
    recorder = Recorder(limits, slow=slow)
    recorder.receiver.establish(frozenset({1, 3}))
    return recorder


def cut(value: bytes, at: Sequence[int]) -> list[bytes]:
    points = sorted({0, len(value), *(point % (len(value) + 1) for point in at)})
    return [value[a:b] for a, b in pairwise(points)] or [b""]


MESSAGES = st.lists(
    st.tuples(st.binary(max_size=900), st.lists(st.integers(0, 900), max_size=4), st.booleans()), min_size=1, max_size=4
)


@settings(deadline=None)
@given(MESSAGES, st.lists(st.integers(1, 400), min_size=1, max_size=5), st.booleans())
def test_however_it_is_cut_the_same_messages_come_out(
    told: list[tuple[bytes, list[int], bool]], reads: list[int], one_pdu: bool
) -> None:
    stream, expected = b"", []
    for number, (data, cuts, empty_end) in enumerate(told, 1):
        commands = cut(command.encode_store_rq(number, CT, "1.2.3.4"), cuts)
        pieces = cut(data, cuts)
        fragments = [pdv(3, 3 if i == len(commands) - 1 else 1, piece) for i, piece in enumerate(commands)]
        fragments += [
            pdv(3, 2 if i == len(pieces) - 1 and not empty_end else 0, piece) for i, piece in enumerate(pieces)
        ]
        if empty_end:
            fragments.append(pdv(3, 2, b""))
        stream += p_data(*fragments) if one_pdu else b"".join(p_data(fragment) for fragment in fragments)
        expected.append((3, number, data))
    recorder = established()
    assert recorder.feed(stream, reads) == b""
    assert recorder.messages == expected
    assert not recorder.receiver.within


@pytest.mark.parametrize("read", [1, 7, 4096, 1 << 20])
def test_a_request_and_what_follows_it_at_once(read: int) -> None:
    class Accepting(Recorder):
        def control(self, kind: int, body: bytes) -> None:
            super().control(kind, body)
            self.receiver.establish(frozenset({1, 3}))

    recorder, raw = Accepting(), request()
    recorder.feed(raw + echo(7) + store(b"abcd", 8), [read])
    assert recorder.controls == [(1, raw[6:])]
    assert recorder.messages == [(1, 7, None), (3, 8, b"abcd")]
    assert recorder.kinds == [1, 4, 4, 4]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\0\1\0", b"\0" * 16, b"SSH-2.0-x", b"\xff"])
def test_what_is_no_dicom_is_garbage_from_its_first_byte(first: bytes) -> None:
    with pytest.raises(Garbage):
        Recorder().feed(first, [1])


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (1, 2**32 - 1), (1, 2**31), (1, 0), (1, 67), (1, 256 * 1024 + 1),
        (4, 2**32 - 1), (4, 100_001), (4, 0), (4, 5),
        (5, 0), (5, 5), (6, 2**32 - 1), (7, 3), (3, 100),
    ],
)  # fmt: skip
def test_a_length_that_lies_is_a_breach_before_anything_is_kept(kind: int, length: int) -> None:
    recorder = established()
    with pytest.raises(Breach) as caught:
        recorder.feed(pdu.HEAD.pack(kind, length))
    assert caught.value.reason == pdu.INVALID_VALUE
    assert recorder.kinds == []


def test_an_unknown_type_inside_an_association_is_told_so() -> None:
    with pytest.raises(Breach) as caught:
        established().feed(b"GET / HTTP/1.1")
    assert caught.value.reason == pdu.UNRECOGNIZED_PDU


RQ = command.encode_store_rq(1, CT, "1.2.3.4")
BREACHES = {
    "a context that was not accepted": p_data(pdv(5, 3, RQ)),
    "a data set without a command": p_data(pdv(3, 2, b"ab")),
    "a command where a data set goes on": p_data(pdv(3, 3, RQ), pdv(3, 0, b"ab"), pdv(3, 1, RQ)),
    "a data set on another context": p_data(pdv(3, 3, RQ), pdv(1, 2, b"ab")),
    "a fragment longer than its PDU": pdu.HEAD.pack(4, 20) + pdu.PDV_HEAD.pack(100, 3, 3) + b"x" * 14,
    "a fragment of length 1": pdu.HEAD.pack(4, 20) + pdu.PDV_HEAD.pack(1, 3, 3) + b"x" * 14,
    "a rest too small for a fragment": pdu.HEAD.pack(4, 13) + pdv(3, 1, b"ab") + b"x" * 5,
    "a command set that does not end": p_data(*(pdv(3, 1, b"x" * 900) for _ in range(3))),
    "a command set that is none": p_data(pdv(3, 3, b"nonsense")),
    "a data set that does not end": p_data(pdv(3, 3, RQ)) + p_data(*(pdv(3, 0, b"x" * 999) for _ in range(30))),
}


@pytest.mark.parametrize("stream", BREACHES.values(), ids=BREACHES.keys())
@pytest.mark.parametrize("read", [1, 1 << 20])
async def test_what_breaks_the_protocol_is_a_breach(stream: bytes, read: int) -> None:
    recorder = established(LimitsTable(held_in_memory=1000, data_set=20_000, command_set=2000))
    readers: list[asyncio.Task[int]] = []

    async def read_all(rest: Rest) -> int:
        return sum([len(chunk) async for chunk in rest])

    async def feed_all(left: bytes) -> None:
        while left:
            left = recorder.feed(left, [read])
            readers.extend(asyncio.create_task(read_all(rest)) for rest in recorder.rests[len(readers) :])
            await asyncio.sleep(0)

    with pytest.raises(Breach):
        await feed_all(stream)
    recorder.receiver.end(Breach("over"))
    for outcome in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(outcome, Breach)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_are_taken_or_refused(tail: bytes, read: int) -> None:
    recorder = established(slow=True)
    try:
        recorder.feed(pdu.HEAD.pack(4, max(len(tail), 6)) + tail, [read])
    except (Breach, Garbage):
        return
    assert len(recorder.messages) <= 1


def test_a_second_request_waits_until_the_first_is_done_with() -> None:
    recorder = established(slow=True)
    left = recorder.feed(store(b"one", 1) + store(b"two", 2) + store(b"three", 3), [64])
    assert [message[1:] for message in recorder.messages] == [(1, b"one")]
    assert recorder.receiver.held
    for expected in (2, 3):
        recorder.receiver.next()
        left = recorder.feed(left, [64])
        assert recorder.messages[-1][1] == expected
    assert left == b""


def test_a_cancel_overtakes_what_is_at_hand() -> None:
    recorder = established(slow=True)
    cancel = p_data(pdv(1, 3, command.encode(command.Command(command.C_CANCEL_RQ, responding_to=1))))
    recorder.feed(store(b"one", 1) + cancel)
    assert len(recorder.messages) == 2
    assert not recorder.receiver.held


@settings(deadline=None)
@given(
    st.integers(1001, 150_000),
    st.integers(1, 90_000),
    st.lists(st.integers(20, 200_000), min_size=1, max_size=4),
)
def test_a_large_data_set_is_streamed_and_nothing_is_lost(size: int, fragment: int, reads: list[int]) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    pieces = [data[at : at + fragment] for at in range(0, size, fragment)]
    if len(pieces) * 12 > size:
        pieces = [data]
    if fragment >= 100_000 - 6 or len(pieces[0]) > 99_000:
        pieces = [data[:70_000], data[70_000:]]
    stream = p_data(pdv(3, 3, RQ)) + b"".join(
        p_data(pdv(3, 2 if i == len(pieces) - 1 else 0, piece)) for i, piece in enumerate(pieces)
    )

    async def run() -> bytes:
        recorder = established()
        left, got, reader = stream, b"", None
        while left:
            left = recorder.feed(left, reads)
            if reader is None and recorder.rests:
                reader = asyncio.create_task(_gathered(recorder.rests[0]))
            await asyncio.sleep(0)
        assert recorder.messages[0][2] is not None
        assert reader is not None
        got = recorder.messages[0][2] + await reader
        recorder.receiver.next()
        assert len(recorder.messages[0][2]) == LIMITS.held_in_memory
        # The association goes on behind it.
        recorder.feed(store(b"next", 2))
        assert recorder.messages[-1][1:] == (2, b"next")
        return got

    assert asyncio.run(run()) == data


async def _gathered(rest: Rest) -> bytes:
    return b"".join([bytes(chunk) async for chunk in rest])


async def test_a_slow_reader_holds_the_sender_back() -> None:
    limits = LimitsTable(held_in_memory=1000, pdu_received=16 << 20)
    recorder = established(limits)
    piece = bytes(1 << 20)
    stream = p_data(pdv(3, 3, RQ)) + p_data(pdv(3, 0, piece)) * 12 + p_data(pdv(3, 2, b"end"))
    left = recorder.feed(stream, [1 << 18])
    assert recorder.receiver.held
    assert len(stream) - len(left) < 7 << 20
    got = 1000
    rest = recorder.rests[0]
    while recorder.receiver.held or left:
        got += len(await anext(rest))
        left = recorder.feed(left, [1 << 18])
    got += len(await _gathered(rest))
    assert got == (12 << 20) + 3


async def test_a_reader_that_wants_no_more_can_wait_for_the_end() -> None:
    limits = LimitsTable(held_in_memory=1000, pdu_received=16 << 20)
    recorder = established(limits)
    stream = p_data(pdv(3, 3, RQ)) + p_data(pdv(3, 0, bytes(1 << 20))) * 12 + p_data(pdv(3, 2, b"end"))
    left = recorder.feed(stream, [1 << 18])
    drained = asyncio.create_task(recorder.rests[0].drain())
    await asyncio.sleep(0)
    assert not drained.done()
    assert recorder.feed(left, [1 << 18]) == b""
    await drained
    assert recorder.rests[0].full is False


def test_before_an_association_stands_a_socket_costs_little() -> None:
    assert len(Recorder().receiver.buffer()) <= 4096


def test_a_large_buffer_is_let_go_between_messages() -> None:
    limits = LimitsTable(held_in_memory=8 << 20)
    recorder = established(limits)
    recorder.feed(store(bytes(3 << 20)))
    room = recorder.receiver.room
    assert len(room.whole().obj) >= 3 << 20  # type: ignore[arg-type]
    room.shrink()
    assert len(room.whole().obj) == 0  # type: ignore[arg-type]
    recorder.feed(store(b"small", 2))
    assert recorder.messages[-1] == (3, 2, b"small")
