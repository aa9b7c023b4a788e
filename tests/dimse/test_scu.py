from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dimse import associate, command, pdu
from dicomnode.dimse.associate import Asking
from dicomnode.dimse.requester import NotAccepted
from dicomnode.dimse.scu import Association, proposals
from dicomnode.errors import PeerError
from tests.dimse.peers import Recording, listening
from tests.dimse.requests import CT, EXPLICIT, IMPLICIT, VERIFICATION, p_data, pdv

ASKED = proposals([(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])])


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@asynccontextmanager
async def node(handlers: Recording, limits: LimitsTable | None = None) -> AsyncIterator[PeerTable]:
    async with listening(handlers, limits) as listener:
        yield PeerTable("DICOMNODE", *listener.address)


async def test_both_our_ends_agree() -> None:
    handlers = Recording()
    async with node(handlers) as peer, Association.request(peer, "ME", ASKED) as association:
        assert await association.echo() == 0
        assert association.settled.max_pdu == 1024 * 1024
        assert association.accepts(CT, EXPLICIT)
        assert await association.store(CT, "1.2.3", EXPLICIT, b"data" * 1000) == 0
        assert await association.store(CT, "1.2.4", EXPLICIT, b"", None) == 0
        assert await association.echo() == 0
    assert handlers.data == [b"data" * 1000, b""]
    assert handlers.requests[0].caller.calling_aet == "ME"


@pytest.mark.parametrize("size", [0, 1, 65_536, 7_000_001])
async def test_an_object_goes_in_chunks(size: int) -> None:
    handlers = Recording()
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with node(handlers) as peer, Association.request(peer, "ME", ASKED) as association:
        assert await association.store(CT, "1.2.3", EXPLICIT, data[:1000], chunks(data[1000:], 100_000)) == 0
    assert handlers.data == [data + bytes(size % 2)]  # fragments are even


async def test_a_failure_is_a_status() -> None:
    handlers = Recording()
    handlers.status = 0xA700
    async with node(handlers) as peer, Association.request(peer, "ME", ASKED) as association:
        assert await association.store(CT, "1.2.3", EXPLICIT, b"data") == 0xA700


async def test_what_was_not_accepted_cannot_be_sent() -> None:
    async with node(Recording()) as peer, Association.request(peer, "ME", ASKED[1:]) as association:
        with pytest.raises(NotAccepted):
            await association.store(CT, "1.2.3", IMPLICIT, b"data")
        with pytest.raises(NotAccepted):
            await association.echo()
        assert await association.store(CT, "1.2.3", EXPLICIT, b"data") == 0


async def test_a_rejection_tells_whether_to_try_again() -> None:
    limits = LimitsTable(associations=1, drain_s=1)
    async with node(Recording(), limits) as peer, Association.request(peer, "ME", ASKED):
        with pytest.raises(PeerError, match="local limit exceeded") as caught:
            async with Association.request(peer, "ME", ASKED):
                pytest.fail("accepted")
        assert caught.value.transient


async def test_an_error_within_aborts_the_association() -> None:
    handlers = Recording()
    async with node(handlers) as peer:
        with pytest.raises(ZeroDivisionError):
            async with Association.request(peer, "ME", ASKED) as association:
                raise ZeroDivisionError
        assert association.layer.over
        with pytest.raises(PeerError):
            await association.echo()


@asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[PeerTable]:
    """A peer that answers each thing it reads with the next of `answers`, None to close the connection."""

    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if not await reader.read(1 << 20) or answer is None:
                break
            writer.write(answer)
        else:
            await reader.read()
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield PeerTable("X", *server.sockets[0].getsockname()[:2])
        if answers:
            await done.wait()
            await asyncio.sleep(0)


def acceptance() -> bytes:
    raw = associate.encode_request("ME", "X", ASKED, 16384)
    _, answer = associate.negotiate(associate.read_request(raw[6:]), associate.Policy(16384))
    return answer


ABORT = pdu.abort(by_provider=True)
WRONG_ID = p_data(pdv(1, 3, command.encode(command.Command(0x8030, responding_to=77, status=0))))
NO_STATUS = p_data(pdv(1, 3, command.encode(command.Command(0x8030, responding_to=1))))
REQUEST = p_data(pdv(1, 3, command.encode(command.Command(command.C_ECHO_RQ, message_id=1))))
BAD_PEERS = {
    "closes": ([None], "connection was lost"),
    "aborts": ([ABORT], "aborted"),
    "refuses": ([b"\3\0\0\0\0\4\0\1\1\7"], "called AE title"),
    "speaks HTTP": ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "no DICOM"),
    "answers what was not asked": ([b"\2\0\0\0\0\x44" + b"\0\1" + bytes(66)], "not accept"),
    "sends data": ([p_data(pdv(1, 3, b"x"))], "wrong time"),
    "aborts later": ([acceptance(), ABORT], "aborted"),
    "closes later": ([acceptance(), None], "connection was lost"),
    "answers another message": ([acceptance(), WRONG_ID], "another message"),
    "answers without a status": ([acceptance(), NO_STATUS], "without a status"),
    "asks instead": ([acceptance(), REQUEST], "nobody asked for"),
}


@pytest.mark.parametrize(("answers", "problem"), BAD_PEERS.values(), ids=BAD_PEERS.keys())
async def test_a_bad_peer_is_an_error_and_never_a_hang(answers: list[bytes | None], problem: str) -> None:
    async with answering(*answers) as peer:
        with pytest.raises(PeerError, match=problem):
            async with Association.request(peer, "ME", ASKED) as association:
                await association.echo()


async def test_a_peer_that_says_nothing_is_given_up() -> None:
    async with answering(b"", b"") as peer:
        with pytest.raises(PeerError, match="said nothing") as caught:
            async with Association.request(peer, "ME", ASKED, LimitsTable(artim_s=0.1)):
                pytest.fail("accepted")
    assert caught.value.transient


async def test_a_peer_that_never_answers_a_message_is_given_up() -> None:
    async with answering(acceptance(), b"") as peer:
        with pytest.raises(PeerError, match="took too long"):
            async with Association.request(peer, "ME", ASKED, LimitsTable(idle_s=0.2)) as association:
                await association.echo()


async def test_a_peer_that_never_answers_the_release_is_given_up() -> None:
    async with answering(acceptance(), b"") as peer:
        async with Association.request(peer, "ME", ASKED, LimitsTable(artim_s=0.1)) as association:
            pass
        assert association.layer.over


async def test_a_peer_that_cannot_be_reached_is_told_with_its_address() -> None:
    async with answering() as peer:
        pass
    with pytest.raises(PeerError, match=f"127.0.0.1:{peer.port} cannot be reached") as caught:
        async with Association.request(peer, "ME", ASKED):
            pytest.fail("connected")
    assert caught.value.transient


async def test_a_release_collision_ends_well() -> None:
    async with answering(acceptance(), pdu.release_rq(), pdu.release_rp()) as peer:
        async with Association.request(peer, "ME", ASKED, LimitsTable(artim_s=5)) as association:
            pass
        assert association.layer.over


async def test_as_many_objects_are_under_way_as_the_node_grants() -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with (
        node(handlers) as peer,
        Association.request(peer, "ME", ASKED, asking=Asking(window=100)) as association,
    ):
        assert association.settled.window == 16
        data = [bytes((n,)) * 1000 for n in range(16)]
        sending = [association.store(CT, f"1.2.{n}", EXPLICIT, one) for n, one in enumerate(data)]
        tasks = [asyncio.create_task(one) for one in sending]
        await handlers.begun.wait()
        handlers.gate.set()
        assert await asyncio.gather(*tasks) == [0] * 16
    assert handlers.data == data


def test_context_numbers_are_odd() -> None:
    asked = proposals([(CT, [IMPLICIT])] * 128)
    assert [one.context_id for one in asked] == list(range(1, 256, 2))
