from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dicomnode import metrics
from dicomnode.config import LimitsTable, StoreScpTable
from dicomnode.dimse import command, pdu
from dicomnode.dimse.listener import Listener
from dicomnode.errors import ConfigError
from tests.dimse.peers import RawPeer, Recording, anyone, listening
from tests.dimse.requests import CT, EXPLICIT, IMPLICIT, VERIFICATION, echo, p_data, pdv, request, store

RELEASE = pdu.release_rq()


def _count(outcome: str) -> float:
    return float(metrics.ASSOCIATIONS.labels(outcome)._value.get())


@asynccontextmanager
async def counted(outcome: str, more: int = 1) -> AsyncIterator[None]:
    """Check that so many associations end in this way, and that none stays open."""
    before, open_before = _count(outcome), metrics.ASSOCIATIONS_OPEN._value.get()
    yield
    for _ in range(2000):
        if _count(outcome) == before + more and metrics.ASSOCIATIONS_OPEN._value.get() == open_before:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{_count(outcome) - before} {outcome}, {metrics.ASSOCIATIONS_OPEN._value.get()} open")


async def test_an_object_is_stored_and_the_association_released() -> None:
    handlers = Recording()
    async with listening(handlers) as listener, counted("released"):
        peer = await RawPeer.connect(listener)
        assert await peer.associate(request([(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])])) == pdu.ASSOCIATE_AC
        await peer.send(store(b"data", 5, uid="1.2.3.4.5"))
        response = await peer.response()
        assert (response.command_field, response.status, response.responding_to) == (0x8001, 0, 5)
        assert response.affected_sop_instance_uid == "1.2.3.4.5"
        await peer.send(RELEASE)
        assert await peer.pdu() == (6, b"\0\0\0\0")
        await peer.close()
    assert handlers.data == [b"data"]
    told = handlers.requests[0]
    assert (told.affected_sop_class_uid, told.affected_sop_instance_uid) == (CT, "1.2.3.4.5")
    assert (told.transfer_syntax_uid, told.caller.calling_aet, told.caller.called_aet) == (
        EXPLICIT,
        "TESTER",
        "DICOMNODE",
    )
    assert told.caller.peer_ip == "127.0.0.1"


async def test_an_echo_is_answered() -> None:
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        for number in (1, 2):
            await peer.send(echo(number))
            response = await peer.response()
            assert (response.command_field, response.status, response.responding_to) == (0x8030, 0, number)
        await peer.close()


async def test_the_peers_longest_pdu_is_respected() -> None:
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate(request(max_pdu=64))
        await peer.send(store(b"data"))
        command_set = b""
        while True:
            answer = await peer.pdu()
            assert answer is not None
            assert len(answer[1]) <= 64
            command_set += answer[1][6:]
            if answer[1][5] & 2:
                break
        assert command.decode(command_set).status == 0
        await peer.close()


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0130, 0x0777])
async def test_an_operation_that_is_not_known_is_answered_so(field: int) -> None:
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        told = command.Command(field, data_set=True, message_id=3, affected_sop_class_uid=CT)
        await peer.send(p_data(pdv(3, 3, command.encode(told))) + p_data(pdv(3, 2, b"abcd")))
        response = await peer.response()
        assert (response.command_field, response.status) == (field | 0x8000, 0x0211)
        await peer.send(store(b"data"))
        assert (await peer.response()).status == 0
        await peer.close()


async def test_a_store_without_an_object_or_on_the_wrong_context_is_refused() -> None:
    handlers = Recording()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        bare = command.Command(command.C_STORE_RQ, message_id=1, affected_sop_class_uid=CT)
        await peer.send(p_data(pdv(3, 3, command.encode(bare))))
        assert (await peer.response()).status == 0xC000
        await peer.send(store(b"data", context_id=1))
        assert (await peer.response()).status == 0x0122
        await peer.close()
    assert handlers.data == []


async def test_a_bug_in_the_handler_fails_that_message_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recording):
        async def store(self, request: object) -> int:
            raise KeyError("bug")

    async with listening(Broken()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        for number in (1, 2):
            await peer.send(store(b"data", number))
            assert (await peer.response()).status == 0x0110
        await peer.close()


@pytest.mark.parametrize(
    "asked", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", b"\0" * 300]
)
async def test_what_is_no_dicom_is_closed_without_a_word(asked: bytes) -> None:
    async with listening(Recording()) as listener, counted("refused_garbage"):
        peer = await RawPeer.connect(listener)
        await peer.send(asked)
        assert await peer.pdu() is None
        await peer.close()


async def test_a_probe_that_connects_and_closes_does_no_harm() -> None:
    async with listening(Recording()) as listener, counted("refused_garbage", 50):
        for _ in range(50):
            await (await RawPeer.connect(listener)).close()
        peer = await RawPeer.connect(listener)
        assert await peer.associate() == pdu.ASSOCIATE_AC
        await peer.send(pdu.abort(by_provider=False))
        await peer.close()


ILLEGAL_FIRST = {
    "data": store(b"data"),
    "a release": RELEASE,
    "a release answered": pdu.release_rp(),
    "an acceptance": b"\x02" + request()[1:],
    "a rejection": b"\3\0\0\0\0\4\0\1\1\1",
    "a length that lies": pdu.HEAD.pack(1, 2**32 - 1),
}


@pytest.mark.parametrize("first", ILLEGAL_FIRST.values(), ids=ILLEGAL_FIRST.keys())
async def test_what_may_not_come_first_is_aborted(first: bytes) -> None:
    async with listening(Recording()) as listener, counted("aborted"):
        peer = await RawPeer.connect(listener)
        await peer.send(first)
        answer = await peer.pdu()
        assert answer is not None
        assert answer[0] == pdu.ABORT
        assert answer[1][2] == 0  # AA-1: by the service user
        await peer.close()


ILLEGAL_LATER = {
    "a second request": (request(), pdu.UNEXPECTED_PDU),
    "an acceptance": (b"\x02" + request()[1:], pdu.UNEXPECTED_PDU),
    "a release answered": (pdu.release_rp(), pdu.UNEXPECTED_PDU),
    "an unknown type": (b"\x42\0\0\0\0\4abcd", pdu.UNRECOGNIZED_PDU),
    "data on a context that was refused": (store(b"data", context_id=9), pdu.INVALID_VALUE),
    "a PDU beyond the limit": (pdu.HEAD.pack(4, 2**31), pdu.INVALID_VALUE),
    "a command that is none": (p_data(pdv(3, 3, b"nonsense")), pdu.INVALID_VALUE),
    "a response to nothing": (
        p_data(pdv(3, 3, command.encode_store_rsp(command.Command(1, message_id=1), 0))),
        pdu.INVALID_VALUE,
    ),
}


@pytest.mark.parametrize(("then", "reason"), ILLEGAL_LATER.values(), ids=ILLEGAL_LATER.keys())
async def test_what_may_not_come_later_is_aborted_with_a_reason(then: bytes, reason: int) -> None:
    async with listening(Recording()) as listener, counted("aborted"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(then)
        assert await peer.pdu() == (pdu.ABORT, bytes((0, 0, 2, reason)))
        await peer.close()


WHOLE = store(b"data" * 100)
SENT = {"asked": 0, "idle": 0, "within a command": 50, "within an object": 300, "while it is stored": len(WHOLE)}
# An A-ABORT cannot be sent within another PDU.
VANISHING = [(phase, how) for phase in SENT for how in ("reset", "close")]
VANISHING += [("idle", "abort"), ("while it is stored", "abort")]


@pytest.mark.parametrize(("phase", "how"), VANISHING)
async def test_a_peer_may_vanish_at_any_time(phase: str, how: str) -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with listening(handlers) as listener:
        async with counted({"abort": "aborted"}.get(how) or ("refused_garbage" if phase == "asked" else "lost")):
            peer = await RawPeer.connect(listener)
            if phase == "asked":
                await peer.send(request()[:100])
            else:
                await peer.associate()
            await peer.send(WHOLE[: SENT[phase]])
            if phase == "while it is stored":
                await handlers.begun.wait()
            if how == "abort":
                await peer.send(pdu.abort(by_provider=False))
            elif how == "reset":
                peer.reset()
            await peer.close()
            await asyncio.sleep(0.02)
            handlers.gate.set()
        second = await RawPeer.connect(listener)
        await second.associate()
        await second.send(store(b"more"))
        assert (await second.response()).status == 0
    # What had arrived whole is kept, though nobody hears of it.
    assert handlers.data == ([b"data" * 100] if phase == "while it is stored" else []) + [b"more"]


async def test_a_peer_that_vanishes_within_a_large_object_ends_its_stream() -> None:
    handlers = Recording()
    async with listening(handlers, LimitsTable(held_in_memory=1000)) as listener, counted("lost"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(store(bytes(5000))[:3000])
        await handlers.begun.wait()
        await peer.close()
    assert handlers.data == []


async def test_a_large_object_that_is_refused_is_answered_at_its_end() -> None:
    class Full(Recording):
        async def store(self, request: object) -> int:
            return 0xA700

    async with listening(Full(), LimitsTable(held_in_memory=1000)) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        for number in (1, 2):
            await peer.send(store(bytes(3_000_000), number))
            assert (await peer.response()).status == 0xA700
        await peer.close()


async def test_a_release_asked_for_too_early_waits_for_the_answer() -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with listening(handlers) as listener, counted("released"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(store(b"data") + RELEASE)
        await handlers.begun.wait()
        await asyncio.sleep(0.02)
        handlers.gate.set()
        assert (await peer.response()).status == 0
        assert await peer.pdu() == (6, b"\0\0\0\0")
        await peer.close()


async def test_requests_sent_ahead_are_answered_in_turn() -> None:
    handlers = Recording()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(b"".join(store(bytes([n]) * 1000, n, uid=f"1.2.{n}") for n in range(1, 30)))
        for number in range(1, 30):
            assert (await peer.response()).responding_to == number
        await peer.close()
    assert handlers.data == [bytes([n]) * 1000 for n in range(1, 30)]


async def test_slots_are_limited_in_all_and_given_back() -> None:
    async with listening(Recording(), LimitsTable(associations=3, associations_per_peer=10, drain_s=1)) as listener:
        inside = [await RawPeer.connect(listener) for _ in range(3)]
        assert [await peer.associate() for peer in inside] == [2, 2, 2]
        async with counted("rejected"):
            one_more = await RawPeer.connect(listener)
            await one_more.send(request())
            assert await one_more.pdu() == (pdu.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))
            await one_more.close()
        await inside[0].send(RELEASE)
        assert await inside[0].pdu() == (6, b"\0\0\0\0")
        again = await RawPeer.connect(listener)
        assert await again.associate() == pdu.ASSOCIATE_AC
        for peer in (*inside, again):
            await peer.close()


async def test_slots_are_limited_for_each_address() -> None:
    async with listening(Recording(), LimitsTable(associations_per_peer=1, drain_s=1)) as listener:
        first, second = [await RawPeer.connect(listener) for _ in range(2)]
        assert await first.associate() == pdu.ASSOCIATE_AC
        assert await second.associate() == pdu.ASSOCIATE_RJ
        await first.close()
        await second.close()


async def test_of_many_half_open_sockets_the_oldest_is_closed() -> None:
    async with listening(Recording(), LimitsTable(half_open=5, drain_s=1)) as listener, counted("timed_out", 5):
        inside = await RawPeer.connect(listener)
        assert await inside.associate() == pdu.ASSOCIATE_AC
        silent = [await RawPeer.connect(listener) for _ in range(5)]
        late = [await RawPeer.connect(listener) for _ in range(5)]
        for peer in silent:
            assert await peer.pdu() is None
        for peer in (*late, inside):  # those that came last, and who was let in, are still there
            await peer.send(request() if peer is not inside else echo())
            answer = await peer.pdu()
            assert answer is not None
            assert answer[0] in (pdu.ASSOCIATE_AC, pdu.P_DATA_TF)
            await peer.send(RELEASE)
            assert await peer.pdu() == (6, b"\0\0\0\0")


async def test_one_address_does_not_push_out_another() -> None:
    async with listening(Recording(), LimitsTable(half_open=5, drain_s=1)) as listener:
        reader, writer = await asyncio.open_connection(*listener.address, local_addr=("127.0.0.2", 0))
        while not listener._outside:
            await asyncio.sleep(0.01)
        flood = [await RawPeer.connect(listener) for _ in range(30)]
        for peer in flood[:20]:
            assert await peer.pdu() is None
        writer.write(request())
        assert (await reader.readexactly(1))[0] == pdu.ASSOCIATE_AC
        writer.close()


@pytest.mark.parametrize("most", [300, 100_000])
async def test_a_request_is_bounded_before_anything_is_kept(most: int) -> None:
    async with listening(Recording(), LimitsTable(associate=most)) as listener, counted("aborted"):
        peer = await RawPeer.connect(listener)
        await peer.send(pdu.HEAD.pack(pdu.ASSOCIATE_RQ, most + 1))
        assert await peer.pdu() == (pdu.ABORT, b"\0\0\0\0")
        await peer.close()
        assert len(request()) - 6 <= most
        other = await RawPeer.connect(listener)
        assert await other.associate() == pdu.ASSOCIATE_AC
        await other.send(RELEASE)
        assert await other.pdu() == (6, b"\0\0\0\0")


async def test_a_thousand_silent_sockets_do_not_keep_one_peer_from_being_served() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        if hard < 4096:
            pytest.skip(f"1,000 half-open sockets were not tested: this user may open {hard} files only")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    handlers = Recording()
    async with listening(handlers, LimitsTable(associations=100, artim_s=30, drain_s=1)) as listener:
        served = await RawPeer.connect(listener)
        await served.associate()
        silent = []
        for number in range(1000):
            silent.append(socket.create_connection(listener.address))
            if number % 100 == 0:
                await served.send(store(b"data", 1 + number))
                assert (await served.response()).status == 0
        late = await RawPeer.connect(listener)
        assert await late.associate() == pdu.ASSOCIATE_AC
        await late.send(store(b"late"))
        assert (await late.response()).status == 0
        assert len(listener._sockets) <= 100 + 2
        for one in silent:
            one.close()
        await served.close()
        await late.close()


@pytest.mark.parametrize("sent", [b"", b"\x01", request()[:60]])
async def test_who_does_not_ask_in_time_is_closed(sent: bytes) -> None:
    limits = LimitsTable(artim_s=0.1)
    async with listening(Recording(), limits) as listener, counted("timed_out"):
        peer = await RawPeer.connect(listener)
        await peer.send(sent)
        assert await peer.pdu() is None
        await peer.close()


async def test_who_does_not_close_after_the_end_is_closed() -> None:
    async with listening(Recording(), LimitsTable(artim_s=0.1)) as listener, counted("released"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(RELEASE)
        assert await peer.pdu() == (6, b"\0\0\0\0")
        assert await peer.pdu() is None
        await peer.close()


@pytest.mark.parametrize("at_once", [True, False])
async def test_who_aborts_after_the_release_is_closed_at_once(at_once: bool) -> None:
    """dcmtk's getscu does, and waits until we close (PS3.8 table 9-10, A-ABORT in Sta13)."""
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        release, abort = bytes.fromhex("05000000000400000000"), bytes.fromhex("07000000000400000000")
        await peer.send(release + abort if at_once else release)
        assert await peer.pdu() == (6, bytes(4))
        if not at_once:
            await peer.send(abort)
        assert await asyncio.wait_for(peer.pdu(), listener.limits.artim_s / 2) is None


async def test_an_idle_association_is_ended() -> None:
    async with listening(Recording(), LimitsTable(idle_s=0.2)) as listener, counted("timed_out"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(echo())
        assert (await peer.response()).status == 0
        assert await peer.pdu() == (pdu.ABORT, b"\0\0\2\0")
        await peer.close()


async def test_a_message_that_trickles_in_is_ended() -> None:
    async with listening(Recording(), LimitsTable(message_s=0.2)) as listener, counted("timed_out"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        raw = store(b"data" * 1000)

        async def trickle() -> None:
            for at in range(len(raw)):
                await peer.send(raw[at : at + 1])
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert await peer.pdu() == (pdu.ABORT, b"\0\0\2\0")
        trickling.cancel()
        await asyncio.wait([trickling])
        await peer.close()


async def test_a_cancel_of_nothing_is_passed_over() -> None:
    cancel = p_data(pdv(1, 3, command.encode(command.Command(command.C_CANCEL_RQ, responding_to=1))))
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(cancel + echo(1) + cancel + store(b"data", 2) + cancel + echo(3))
        for number in (1, 2, 3):
            assert (await peer.response()).responding_to == number
        await peer.close()


async def test_a_peer_that_asks_and_never_listens_does_not_fill_our_memory() -> None:
    async with listening(Recording()) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        peer._writer.transport.pause_reading()  # type: ignore[attr-defined]
        [acceptor] = listener._sockets

        async def flood() -> None:
            while True:
                await peer.send(echo() * 1000)

        flooding = asyncio.create_task(flood())
        while not (acceptor.layer.clogged and acceptor.layer.receiver.held):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert acceptor.layer.transport.get_write_buffer_size() < 1024 * 1024
        flooding.cancel()
        await asyncio.wait([flooding])
        peer.reset()


async def test_draining_lets_the_message_at_hand_be_answered() -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with listening(handlers, LimitsTable(drain_s=20)) as listener:
        address = listener.address
        busy, idle, half = [await RawPeer.connect(listener) for _ in range(3)]
        for peer in (busy, idle, half):
            await peer.associate()
        whole = store(b"data" * 1000)
        await busy.send(whole)
        await half.send(whole[:2000])
        await handlers.begun.wait()
        draining = asyncio.create_task(listener.drain())
        assert await idle.pdu() == (pdu.ABORT, b"\0\0\0\0")
        assert not draining.done()
        await half.send(whole[2000:])
        handlers.gate.set()
        for peer in (busy, half):
            assert (await peer.response()).status == 0
            assert await peer.pdu() == (pdu.ABORT, b"\0\0\0\0")
        for peer in (busy, idle, half):
            await peer.close()
        await draining
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection(*address)
    assert handlers.data == [b"data" * 1000] * 2


async def test_draining_ends_what_does_not_end() -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with listening(handlers, LimitsTable(drain_s=0.1)) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(store(b"data"))
        await handlers.begun.wait()
        await listener.drain()
        assert await peer.pdu() == (pdu.ABORT, b"\0\0\0\0")
        assert await peer.pdu() is None
        await peer.close()
    assert handlers.data == []


async def test_an_address_that_cannot_be_had_is_told() -> None:
    async with listening(Recording()) as listener:
        table = StoreScpTable(port=listener.address[1])
        with pytest.raises(ConfigError, match=r"storescp\.port.*in use"):
            await Listener(table, anyone, Recording()).open()
    with pytest.raises(ConfigError, match=r"storescp\.host"):
        await Listener(StoreScpTable(host="203.0.113.1", port=0), anyone, Recording()).open()


async def test_an_object_of_300_mb_costs_no_memory() -> None:
    class Counting(Recording):
        async def store(self, request: object) -> int:
            total = len(request.data)  # type: ignore[attr-defined]
            async for chunk in request.rest:  # type: ignore[attr-defined]
                total += len(chunk)
            self.data.append(str(total).encode())
            return 0

    handlers = Counting()
    async with listening(handlers) as listener:
        peer = await RawPeer.connect(listener)
        await peer.associate()
        before = _rss()
        await peer.send(p_data(pdv(3, 3, command.encode_store_rq(1, CT, "1.2.3"))))
        piece = p_data(pdv(3, 0, bytes(1024 * 1024 - 12)))
        for _ in range(300):
            await peer.send(piece)
        await peer.send(p_data(pdv(3, 2, b"end!")))
        assert (await peer.response()).status == 0
        assert _rss() - before < 64 * 1024 * 1024
        await peer.close()
    assert handlers.data == [str(300 * (1024 * 1024 - 12) + 4).encode()]


def _rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_an_object_beyond_the_limit_is_aborted() -> None:
    handlers = Recording()
    limits = LimitsTable(held_in_memory=1000, data_set=100_000)
    async with listening(handlers, limits) as listener, counted("aborted"):
        peer = await RawPeer.connect(listener)
        await peer.associate()
        await peer.send(store(bytes(100_001)))
        assert await peer.pdu() == (pdu.ABORT, b"\0\0\2\0")
        await peer.close()
    assert handlers.data == []
