"""Targets of the upper layer: what a peer's socket brings, before anything of it is believed."""

from __future__ import annotations

from typing import Any

from dicomnode.config import LimitsTable
from dicomnode.dimse import associate, command, items, pdu, state
from dicomnode.dimse.associate import Policy
from dicomnode.dimse.pdu import Breach, Rejection
from dicomnode.dimse.receive import Message, Receiver
from dicomnode.errors import NodeError, PeerError

LIMITS = LimitsTable(pdu_received=8192, command_set=512, data_set=4096, held_in_memory=1024)
POLICY = Policy(16384)
# What may lie in memory of one association: scratch, body, command set, the held part and the chunks of a stream.
_MOST_BYTES = 16 * 1024 * 1024


class Acceptor:
    """The end that accepts, without a socket: it answers a request and takes every message at once."""

    def __init__(self, *, at_once: bool) -> None:
        self.receiver = Receiver(self, LIMITS)
        self.machine = state.Machine(requestor=False)
        self.machine.step(state.CONNECTION_ARRIVED)
        self.at_once = at_once
        self.told: list[Any] = []
        self.waiting = 0

    def begins(self, kind: int) -> None:
        if self.machine.step(state.EVENT_OF_PDU[kind]) in ("AA-1", "AA-6", "AA-7", "AA-8", ""):
            raise Breach("a PDU at a wrong time", pdu.UNEXPECTED_PDU)

    def control(self, kind: int, body: bytes) -> None:
        self.told.append((kind, body))
        if kind == pdu.ASSOCIATE_RQ:
            settled, answer = associate.negotiate(associate.read_request(body), POLICY)[:2]
            assert answer[0] == pdu.ASSOCIATE_AC
            self.machine.step(state.ACCEPT)
            self.receiver.establish(frozenset(settled.contexts))

    def message(self, message: Message) -> bool:
        data = None if message.data is None else bytes(message.data)
        assert data is None or len(data) <= LIMITS.held_in_memory
        self.told.append((message.context_id, message.command, data, message.rest is not None))
        if message.rest is None and self.at_once:
            return True
        if message.command.command_field & command.RESPONSE or message.command.command_field == command.C_CANCEL_RQ:
            return True
        self.waiting += 1
        return False

    def wanted(self) -> None:
        self.receiver.go_on()

    def feed(self, data: bytes, size: int) -> None:
        """Give the receiver `data` in pieces of at most `size` bytes, and let every handler finish at last."""
        at = 0
        while at < len(data):
            if self.receiver.held:
                if not self._serve():
                    return
                continue
            place = self.receiver.buffer()
            assert len(place), "the kernel must have room"
            piece = data[at : at + min(size, len(place))]
            place[: len(piece)] = piece
            self.receiver.received(len(piece))
            at += len(piece)
        while self._serve():
            pass

    def _serve(self) -> bool:
        """Finish what the handler does, so that reading goes on; return whether there was anything."""
        rest = self.receiver.room.rest
        if rest is not None and rest.full:
            rest._chunks.clear()
            self.receiver.go_on()
            return True
        if not self.waiting:
            return False
        self.waiting -= 1
        if rest is None:
            self.receiver.next()
            return True
        return False


def run(data: bytes, size: int, *, at_once: bool) -> tuple[list[Any], str]:
    """Return what an association with this input came to: what was delivered, and what ended it."""
    acceptor = Acceptor(at_once=at_once)
    try:
        acceptor.feed(data, size)
    except PeerError as problem:
        return acceptor.told, type(problem).__name__ + str(problem)
    return acceptor.told, ""


def pdus(data: bytes) -> None:
    """However the bytes are cut, the same comes of them."""
    if not data:
        return
    size, at_once, data = data[0] % 64 + 1, data[0] < 128, data[1:]
    assert run(data, size, at_once=at_once) == run(data, 1 << 20, at_once=at_once)


def request(data: bytes) -> None:
    """A request is answered with something that can be read, refused, or a breach."""
    try:
        asked = associate.read_request(data)
        _, answer = associate.negotiate(asked, POLICY)[:2]
    except (Breach, Rejection):
        return
    assert len(answer) < pdu.ASSOCIATE_MAX + 6
    read = items.read(answer[6:])
    assert {told.context_id for told in read.answers} == {one.context_id for one in asked.proposals}


def acceptance(data: bytes) -> None:
    """What answers a request of ours is read against what was asked for."""
    asked = [items.Proposal(2 * n + 1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)) for n in range(4)]
    try:
        settled = associate.read_acceptance(data, asked)
    except NodeError:
        return
    assert set(settled.contexts) <= {1, 3, 5, 7}


def command_set(data: bytes) -> None:
    """A command set that can be read can be written, and is the same from then on."""
    try:
        found = command.decode(data)
    except Breach:
        return
    once = command.decode(command.encode(found))
    assert once.command_field == found.command_field
    assert command.decode(command.encode(once)) == once
