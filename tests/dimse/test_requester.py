"""Requests from either end: many responses, cancelling, and objects that the accepting end sends (C-GET)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dimse import command, status
from dicomnode.dimse.command import Command
from dicomnode.dimse.items import Proposal, Role
from dicomnode.dimse.requester import NotAccepted
from dicomnode.dimse.responder import Operation, Replies, Reply, Request
from dicomnode.dimse.scu import Association, proposals
from dicomnode.errors import PeerError
from tests.dimse.peers import Recording, listening

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
CT = "1.2.840.10008.5.1.4.1.1.2"
_FIND_RQ = Command(command.C_FIND_RQ, affected_sop_class_uid=FIND)
_GET_RQ = Command(command.C_GET_RQ, affected_sop_class_uid=GET)


async def _counting(request: Request) -> Replies:
    """Answer an identifier that holds a number with that many pending responses."""
    for number in range(int(request.data)):
        if request.cancellation.asked:
            yield Reply(status.CANCELLED)
            return
        yield Reply(status.PENDING, b"%06d" % number)
        await asyncio.sleep(0)
    yield Reply(status.SUCCESS)


@asynccontextmanager
async def _asking(
    operation: Operation, *, field: int = command.C_FIND_RQ, sop_class: str = FIND, at: Recording | None = None
) -> AsyncIterator[Association]:
    handlers = Recording()
    handlers.operations = {(field, sop_class): operation}
    asked = (
        *proposals([(sop_class, (IMPLICIT_VR_LITTLE_ENDIAN,))]),
        Proposal(3, CT, (EXPLICIT_VR_LITTLE_ENDIAN,), Role(scu=False, scp=True)),
    )
    async with (
        listening(handlers, LimitsTable(drain_s=1, held_in_memory=1024)) as listener,
        Association.request(PeerTable("X", *listener.address), "ME", asked, handlers=at or Recording()) as association,
    ):
        yield association


async def test_responses_come_in_order_until_one_is_not_pending() -> None:
    async with _asking(_counting) as association:
        requester = association.requester
        context = requester.context(FIND)
        answers = [answer async for answer in requester.converse(context.context_id, _FIND_RQ, b"3 ")]
        assert [(answer.status, answer.data) for answer in answers] == [
            *((status.PENDING, number) for number in (b"000000", b"000001", b"000002")),
            (status.SUCCESS, b""),
        ]
        again = [answer async for answer in requester.converse(context.context_id, _FIND_RQ, b"0 ")]
        assert [answer.status for answer in again] == [status.SUCCESS]


async def test_a_slow_reader_gets_every_response_and_holds_the_sender_back() -> None:
    async with _asking(_counting) as association:
        conversation = association.requester.converse(1, _FIND_RQ, b"5000")
        await anext(conversation)
        for _ in range(200):
            await asyncio.sleep(0.005)
        assert 0 < conversation.unread <= 1100
        numbers = [int(answer.data) async for answer in conversation if answer.data]
        assert numbers == list(range(1, 5000))


async def test_cancelling_ends_the_responses() -> None:
    async with _asking(_counting) as association:
        conversation = association.requester.converse(1, _FIND_RQ, b"100000")
        await anext(conversation)
        conversation.cancel()
        *_, last = [answer async for answer in conversation]
        assert last.status == status.CANCELLED


async def test_the_accepting_end_sends_objects_on_the_same_association() -> None:
    async def get(request: Request) -> Replies:
        for number in range(3):
            told = await request.partner.store(CT, f"1.{number}", EXPLICIT_VR_LITTLE_ENDIAN, b"x" * 3000)
            assert told == 0
            yield Reply(status.PENDING, remaining=2 - number, completed=number + 1)
        yield Reply(status.SUCCESS, completed=3)

    receiver = Recording()
    async with _asking(get, field=command.C_GET_RQ, sop_class=GET, at=receiver) as association:
        answers = [answer async for answer in association.requester.converse(1, _GET_RQ, b"any ")]
    assert [answer.command.completed for answer in answers] == [1, 2, 3, 3]
    assert [one.affected_sop_instance_uid for one in receiver.requests] == ["1.0", "1.1", "1.2"]
    assert receiver.data == [b"x" * 3000] * 3


async def test_a_role_that_was_not_given_cannot_be_used() -> None:
    async with _asking(_counting) as association:
        assert not association.accepts(CT, EXPLICIT_VR_LITTLE_ENDIAN)
        with pytest.raises(NotAccepted):
            await association.store(CT, "1.2", EXPLICIT_VR_LITTLE_ENDIAN, b"")


async def test_an_identifier_is_bounded() -> None:
    async with _asking(_counting) as association:
        with pytest.raises(PeerError):
            [answer async for answer in association.requester.converse(1, _FIND_RQ, b"1" * 5000)]


async def test_what_nobody_serves_is_told_and_what_breaks_is_a_failure() -> None:
    async def broken(_request: Request) -> Replies:
        yield Reply(status.PENDING, b"1 ")
        raise ValueError

    async with _asking(broken) as association:
        answers = [answer.status async for answer in association.requester.converse(1, _FIND_RQ, b"1 ")]
        assert answers == [status.PENDING, status.PROCESSING_FAILURE]
        told = await association.requester.ask(1, Command(command.N_CREATE_RQ, affected_sop_class_uid=FIND))
        assert told.status == status.UNRECOGNIZED_OPERATION


async def test_the_loss_of_the_association_is_told_and_stops_the_handler() -> None:
    stopped = asyncio.Event()

    async def endless(request: Request) -> Replies:
        try:
            while not request.cancellation.asked:
                yield Reply(status.PENDING, b"1 ")
                await asyncio.sleep(0)
        finally:
            stopped.set()

    async with _asking(endless) as association:
        conversation = association.requester.converse(1, _FIND_RQ, b"1 ")
        await anext(conversation)
        association.layer.transport.abort()
        with pytest.raises(PeerError):
            [answer async for answer in conversation]
        async with asyncio.timeout(10):
            await stopped.wait()
