"""The upper layer on a socket, for both ends: bytes in and out, the state machine, deadlines, back pressure (PS3.8)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, cast

from dicomnode.config import LimitsTable
from dicomnode.dimse import pdu, state
from dicomnode.dimse.deadlines import Phase, Standing, Watch
from dicomnode.dimse.pdu import Breach, Garbage, Rejection
from dicomnode.dimse.receive import Message, Receiver
from dicomnode.dimse.tls import problem_of
from dicomnode.errors import PeerError

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Ending(StrEnum):
    """How an association ended."""

    RELEASED = "released"
    ABORTED = "aborted"
    LOST = "lost"
    REJECTED = "rejected"
    GARBAGE = "refused_garbage"
    TIMED_OUT = "timed_out"


class User(Protocol):
    """Who sits above the upper layer: the end that serves or the end that asks."""

    def opened(self) -> None:
        """Learn that the socket is connected."""

    def associate(self, kind: int, body: bytes) -> None:
        """Take an A-ASSOCIATE-RQ, -AC or -RJ. May raise Breach and Rejection."""

    def message(self, message: Message) -> bool:
        """Take a DIMSE message; return whether it is done with. If not, call `UpperLayer.next` when it is."""

    def release_asked(self) -> None:
        """Learn that the peer wants to part; call `UpperLayer.answer_release` in time."""

    def ended(self, ending: Ending, problem: PeerError) -> None:
        """Learn, once, that the association is over; `problem` is what a caller who still waits should be told."""

    def closed(self) -> None:
        """Learn, once and after `ended`, that the socket is closed."""


class UpperLayer(asyncio.BufferedProtocol):
    """One connection. Without a `User` above it nothing happens."""

    def __init__(self, user: User, limits: LimitsTable, *, requestor: bool) -> None:
        self.user = user
        self.limits = limits
        self.machine = state.Machine(requestor=requestor)
        self.receiver = Receiver(self, limits)
        self.transport: asyncio.Transport
        self.over = False
        self._asked = False  # a whole A-ASSOCIATE has come
        self._agreed = False  # the user answered a release that is not to be answered yet
        self._socket: socket.socket | None = None
        self._reads = self._sends = 0
        self._paused = False
        self._writable: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._watch = Watch(self._loop, limits, self._now, self._expired)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up and start the deadlines."""
        self.transport = cast("asyncio.Transport", transport)
        own = transport.get_extra_info("socket")
        if own is not None:
            # A duplicate, because setsockopt through uvloop's stand-in costs five times as much.
            self._socket = socket.socket(fileno=os.dup(own.fileno()))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.machine.requestor:
            self.machine.step(state.REQUEST)
        else:
            self.machine.step(state.CONNECTION_ARRIVED)
        self._watch.start()
        self.user.opened()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        try:
            return self.receiver.buffer()
        except Breach as breach:
            self.fail(breach)
            return self.receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Work on the bytes that came."""
        if _QUICKACK is not None and self._socket is not None:
            # A sender with Nagle's algorithm on waits for our ACK before each last, small segment; the kernel goes back
            # to delaying ACKs by itself, so this is said again each time.
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        self._reads += 1
        try:
            self.receiver.received(nbytes)
        except PeerError as problem:
            self.fail(problem)
        if self.receiver.held and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Close: DICOM knows no half-closed association."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everyone who still waits."""
        self._watch.stop()
        self.machine.step(state.CLOSED)
        if isinstance(error, ssl.SSLError):
            self._end(Ending.LOST, problem_of(error, "the peer"))
        self._end(Ending.LOST, PeerError("the connection was lost", transient=True))
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.resume_writing()
        # An association is a ring of objects, which the garbage collector may find late: its buffers go now.
        self.receiver.close()
        self.user.closed()

    def pause_writing(self) -> None:
        """Let `drained` wait."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let `drained` go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What the receiver calls.

    def begins(self, kind: int) -> None:
        """Ask the state machine whether a PDU of this type may come now."""
        action = self.machine.step(state.EVENT_OF_PDU[kind])
        if action in _BAD:
            raise Breach(f"a PDU of type {kind:#04x} at a wrong time", pdu.UNEXPECTED_PDU)

    def control(self, kind: int, body: bytes) -> None:
        """Do what a PDU other than data asks for."""
        if kind == pdu.ABORT:
            self._end(Ending.ABORTED, PeerError("the peer aborted the association", transient=True))
            self.transport.close()
        elif kind == pdu.RELEASE_RQ:
            self.user.release_asked()
        elif kind == pdu.RELEASE_RP and self.machine.state == state.COLLISION_CONFIRMED:
            if self._agreed:
                self.answer_release()
        elif kind == pdu.RELEASE_RP:
            self._end(Ending.RELEASED, PeerError("the association is released"))
            self.transport.close()
        else:
            self.user.associate(kind, body)
            self._asked = True

    def message(self, message: Message) -> bool:
        """Hand a message up."""
        return self.user.message(message)

    def wanted(self) -> None:
        """Go on reading a large data set."""
        self._go_on(self.receiver.go_on)

    # What the user calls.

    def request(self, associate_rq: bytes) -> None:
        """Ask for an association."""
        self.machine.step(state.CONNECTED)
        self.transport.write(associate_rq)

    def accept(self, associate_ac: bytes, contexts: frozenset[int]) -> None:
        """Say yes to the association that was asked for."""
        self.machine.step(state.ACCEPT)
        self.transport.write(associate_ac)
        self.establish(contexts)

    def establish(self, contexts: frozenset[int]) -> None:
        """Let data in on these contexts; the association stands."""
        self.receiver.establish(contexts)

    def reject(self, rejection: Rejection) -> None:
        """Say no to the association that was asked for, and wait for the peer to close."""
        self.machine.step(state.REJECT)
        self.transport.write(pdu.associate_rj(rejection))
        self._end(Ending.REJECTED, rejection)

    def refused(self, rejection: Rejection) -> None:
        """Take note that the peer said no."""
        self._end(Ending.REJECTED, rejection)
        self.transport.close()

    def send(self, *parts: bytes | memoryview) -> None:
        """Send whole P-DATA-TF PDUs, in as few segments as the kernel likes. Raises: PeerError."""
        if self.over or not self.machine.step(state.SEND_DATA):
            raise PeerError("the association is over", transient=True)
        self._sends += 1
        if len(parts) == 1:
            self.transport.write(parts[0])
        else:
            self.transport.writelines(parts)

    @property
    def clogged(self) -> bool:
        """Whether the peer does not take what it is sent as fast as it is sent."""
        return self._writable is not None

    async def drained(self) -> None:
        """Return when the peer has taken enough of what was sent. Raises: PeerError."""
        if self._writable is not None:
            await asyncio.shield(self._writable)
        if self.over:
            raise PeerError("the connection was lost", transient=True)

    def hold(self) -> None:
        """Read nothing more until `wanted`: whoever takes responses is behind."""
        self.receiver.hold()

    def next(self) -> None:
        """Be done with the last message and take the next one."""
        if not self.over:
            self._go_on(self.receiver.next)

    def release(self) -> None:
        """Ask the peer to part; `ended` follows."""
        if self.machine.step(state.RELEASE):
            self.transport.write(pdu.release_rq())

    def answer_release(self) -> None:
        """Agree to part, and wait for the peer to close."""
        action = self.machine.step(state.ANSWER_RELEASE)
        if not action:
            self._agreed = True  # both asked at once, and it is the requestor who answers first (PS3.8 7.2.3)
            return
        self.transport.write(pdu.release_rp())
        if action == "AR-4":
            self._end(Ending.RELEASED, PeerError("the association is released"))

    def abort(self, problem: PeerError, ending: Ending = Ending.ABORTED) -> None:
        """End the association now and say so to the peer."""
        if self.over:
            self.transport.abort()
            return
        self.machine.step(state.ABORT_BY_US)
        self.transport.write(pdu.abort(by_provider=ending is Ending.TIMED_OUT))
        self._end(ending, problem)

    def drop(self) -> None:
        """Close the socket without a word."""
        self._end(Ending.TIMED_OUT, PeerError("the peer said nothing", transient=True))
        self.transport.abort()

    def hang_up(self, problem: PeerError) -> None:
        """Close the socket before anything was said, because of `problem`."""
        self._end(Ending.REJECTED, problem)
        self.transport.abort()

    def _go_on(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PeerError as problem:
            self.fail(problem)
        if self._paused and not self.receiver.held:
            self._paused = False
            self.transport.resume_reading()

    def _now(self) -> Standing:
        receiver = self.receiver
        if self.over or not receiver.established:
            return Standing(Phase.ARTIM, 0, 0)
        within, step = receiver.within, receiver.messages + self._sends
        arriving = receiver.pdus if receiver.within_pdu else -1
        if receiver.busy or within:
            # While a handler works, the peer has nothing to send.
            return Standing(Phase.MESSAGE, step, self._reads if within else -1, arriving)
        receiver.room.shrink()
        return Standing(Phase.IDLE, step, self._reads, arriving)

    def _expired(self, phase: Phase) -> None:
        if phase is Phase.ARTIM:
            self.machine.step(state.ARTIM_EXPIRED)
            self.drop()
        else:
            self.abort(PeerError(f"the peer took too long ({phase})", transient=True), Ending.TIMED_OUT)

    def fail(self, problem: PeerError) -> None:
        """Answer a fault of the peer's as the standard wants, and end."""
        if isinstance(problem, Garbage):
            self._end(Ending.GARBAGE, problem)
            self.transport.abort()
        elif isinstance(problem, Rejection):
            self.reject(problem)
        elif not self.over:
            reason = problem.reason if isinstance(problem, Breach) else pdu.NOT_SPECIFIED
            # Before a request is in the standard has the service user abort (AA-1), later the provider (AA-8).
            self.machine.step(state.INVALID_PDU)
            by_provider = self.machine.requestor or self._asked
            self.transport.write(pdu.abort(by_provider=by_provider, reason=reason))
            self._end(Ending.ABORTED, problem)

    def _end(self, ending: Ending, problem: PeerError) -> None:
        if not self.over:
            self.over = True
            self.receiver.end(problem)
            self.user.ended(ending, problem)
            if self._paused and not self.transport.is_closing():
                self._paused = False
                self.transport.resume_reading()


_BAD = frozenset({"AA-1", "AA-6", "AA-7", "AA-8", ""})
