from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from dicomnode import metrics
from dicomnode.config import PeerTable
from dicomnode.dicom.identifier import read_identifier, write_identifier
from dicomnode.dimse import status
from dicomnode.dimse.associate import Asking
from dicomnode.dimse.command import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ
from dicomnode.dimse.items import CONTEXTS_MOST, Role
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.peer import Progress, connect
from dicomnode.dimse.responder import Replies, Reply, Request
from dicomnode.dimse.retrieve import get_proposals
from dicomnode.dimse.scu import Association, proposals
from dicomnode.errors import BadRequest, PeerError
from tests.dimse.peers import Recording, listening
from tests.dimse.requests import CT, EXPLICIT

STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"


class Archive(Recording):
    """Answers each question with the replies it was given."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self._replies = replies
        self.asked: list[tuple[Request, dict[str, Any]]] = []
        self.stopped = asyncio.Event()
        asked = (C_FIND_RQ, STUDY_FIND), (C_FIND_RQ, PATIENT_FIND), (C_MOVE_RQ, STUDY_MOVE), (C_GET_RQ, STUDY_GET)
        self.operations = dict.fromkeys(asked, self.answer)

    async def answer(self, request: Request) -> Replies:
        self.asked.append((request, read_identifier(request.data, request.transfer_syntax_uid)))
        for reply in self._replies:
            if request.cancellation.asked:
                break
            yield reply
            await asyncio.sleep(0.01)
        if request.cancellation.asked:
            self.stopped.set()
            yield Reply(status.CANCELLED)


def address(listener: Listener) -> str:
    host, port = listener.address
    return f"X@{host}:{port}"


def match(uid: str) -> Reply:
    return Reply(status.PENDING, write_identifier({"0020000D": {"vr": "UI", "Value": [uid]}}, EXPLICIT))


async def test_matches_come_as_they_are_found() -> None:
    archive = Archive(match("1.2"), match("1.3"), Reply(status.SUCCESS))
    async with listening(archive) as listener, connect(address(listener), "ME") as peer:
        assert await peer.echo() < 20
        found = [one["0020000D"]["Value"][0] async for one in peer.find({"PatientID": "P1", "StudyInstanceUID": None})]
        again = [one async for one in peer.find({"PatientID": "P1"}, "PATIENT", root="patient")]
    assert found == ["1.2", "1.3"]
    assert len(again) == 2
    (first, keys), (second, _) = archive.asked
    assert (first.sop_class_uid, second.sop_class_uid) == (STUDY_FIND, PATIENT_FIND)
    assert first.caller.calling_aet == "ME"
    assert keys == {
        "00080052": {"vr": "CS", "Value": ["STUDY"]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "0020000D": {"vr": "UI"},
    }


async def test_who_wants_no_more_stops_the_peer_and_may_ask_again() -> None:
    archive = Archive(*(match(f"1.2.{number}") for number in range(2000)), Reply(status.SUCCESS))
    async with listening(archive) as listener, connect(address(listener)) as peer:
        async with aclosing(peer.find({})) as found:
            async for _ in found:
                break
        await asyncio.wait_for(archive.stopped.wait(), 20)
        assert len([one async for one in peer.find({}, limit=2)]) == 2
        assert await peer.echo() >= 0


@pytest.mark.parametrize(("told", "transient"), [(0xA700, True), (0xA900, False), (0xC001, False), (0x0122, False)])
async def test_a_failure_is_an_error(told: int, transient: bool) -> None:
    archive = Archive(match("1.2"), Reply(told, error_comment="no such level"))
    async with listening(archive) as listener, connect(address(listener)) as peer:
        with pytest.raises(PeerError, match=f"{told:#06x}: no such level") as caught:
            [one async for one in peer.find({})]
        assert caught.value.transient == transient
        assert await peer.echo() >= 0


async def test_a_pending_answer_that_is_none_is_an_error() -> None:
    archive = Archive(Reply(status.PENDING, b"\xff" * 20), Reply(status.SUCCESS))
    async with listening(archive) as listener, connect(address(listener)) as peer:
        with pytest.raises(BadRequest):
            [one async for one in peer.find({})]


async def test_a_move_tells_how_far_it_is() -> None:
    failed = write_identifier({"00080058": {"vr": "UI", "Value": ["1.2.3", "1.2.4"]}}, EXPLICIT)
    archive = Archive(
        Reply(status.PENDING, remaining=3, completed=1, failed=0, warning=0),
        Reply(status.SUBOPERATIONS_WITH_FAILURES, failed, completed=1, failed=2, warning=1, error_comment="two failed"),
    )
    async with listening(archive) as listener, connect(address(listener)) as peer:
        going = [one async for one in peer.move({"StudyInstanceUID": "1.2"}, "THERE", "SERIES")]
    assert going == [
        Progress(status.PENDING, remaining=3, completed=1),
        Progress(0xB000, 0, 1, 1, 2, ("1.2.3", "1.2.4"), "two failed"),
    ]
    assert [one.is_last for one in going] == [False, True]
    [(request, keys)] = archive.asked
    assert request.command.move_destination == "THERE"
    assert keys["00080052"]["Value"] == ["SERIES"]


async def test_a_lost_association_ends_a_question() -> None:
    archive = Archive(match("1.2"), *(match("1.3") for _ in range(2000)))
    async with listening(archive) as listener, connect(address(listener)) as peer:
        found = peer.find({})
        await anext(found)
        for acceptor in list(listener._sockets):
            acceptor.layer.transport.abort()
        with pytest.raises(PeerError, match="lost") as caught:
            [one async for one in found]
    assert caught.value.transient


async def test_a_peer_may_be_given_as_its_table() -> None:
    async with listening(Archive()) as listener, connect(PeerTable("X", *listener.address)) as peer:
        assert await peer.echo() >= 0
    with pytest.raises(ValueError, match="not AET@host:port"):
        async with connect("nonsense"):
            pytest.fail("connected")


@pytest.mark.parametrize(("busy", "outcome"), [(True, "aborted"), (False, "released")])
async def test_who_is_cancelled_releases_unless_an_answer_is_due(busy: bool, outcome: str) -> None:
    handlers = Recording()
    handlers.gate = asyncio.Event()
    ended = metrics.ASSOCIATIONS.labels(outcome)._value
    before = ended.get()
    standing = asyncio.Event()

    async def hold(listener: Listener) -> None:
        async with Association.request(PeerTable("X", *listener.address), "ME", proposals([(CT, [EXPLICIT])])) as one:
            standing.set()
            if busy:
                await one.store(CT, "1.2.3", EXPLICIT, b"data")
            await asyncio.Event().wait()

    async with listening(handlers) as listener:
        holding = asyncio.create_task(hold(listener))
        await (handlers.begun if busy else standing).wait()
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        handlers.gate.set()
        for _ in range(400):
            if ended.get() == before + 1:
                break
            await asyncio.sleep(0.05)
        assert ended.get() == before + 1


async def test_a_window_is_granted_where_nothing_else_is_asked_for() -> None:
    async with listening(Archive()) as listener:
        peer, asking = PeerTable("X", *listener.address), Asking(window=8)
        for asked, window in (([(CT, [EXPLICIT])], 8), ([(CT, [EXPLICIT]), (STUDY_FIND, [EXPLICIT])], 1)):
            async with Association.request(peer, "ME", proposals(asked), asking=asking) as association:
                assert association.settled.window == window


def test_contexts_for_a_retrieval_are_never_too_many() -> None:
    for kinds in ((), [CT], [f"1.2.{number}" for number in range(9)], [f"1.2.{number}" for number in range(500)]):
        asked = get_proposals(STUDY_GET, kinds)
        assert 1 < len(asked) <= CONTEXTS_MOST
        assert len({one.context_id for one in asked}) == len(asked)
        assert asked[0].abstract_syntax == STUDY_GET
        assert all(one.role == Role(scu=False, scp=True) for one in asked[1:])
    assert len({syntax for one in get_proposals(STUDY_GET, [CT])[1:] for syntax in one.transfer_syntaxes}) > 10
    everything = get_proposals(STUDY_GET)
    assert CT in {one.abstract_syntax for one in everything}
    # dcmtk takes no request that is longer.
    assert sum(len(uid) + 4 for one in everything for uid in one.transfer_syntaxes) < 100_000
