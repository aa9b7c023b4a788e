"""The end that serves: one association, from the connection to its end (PS3.7 9.3, PS3.8 7)."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import Callable
from typing import Protocol

import structlog

from dicomnode import log, metrics
from dicomnode.config import LimitsTable
from dicomnode.dimse import associate, pdu
from dicomnode.dimse.associate import Policy
from dicomnode.dimse.command import RESPONSE
from dicomnode.dimse.items import Associate
from dicomnode.dimse.pdu import Breach, Rejection
from dicomnode.dimse.protocol import Ending, UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.dimse.requester import Requester
from dicomnode.dimse.responder import Caller, Handlers, Responder
from dicomnode.errors import PeerError

_log = log.get(__name__)


class House(Protocol):
    """What the associations of one listener share."""

    policy: Policy
    limits: LimitsTable
    handlers: Handlers

    def admit(self, request: Associate, peer_ip: str) -> Caller:
        """Return who comes in, and count it among those inside. Raises: Rejection."""

    def opened(self, acceptor: Acceptor) -> None:
        """Learn of a socket."""

    def entered(self, acceptor: Acceptor) -> None:
        """Learn that a socket's association stands."""

    def left(self, acceptor: Acceptor) -> None:
        """Count an association out that `admit` counted in."""

    def closed(self, acceptor: Acceptor) -> None:
        """Forget a socket."""


class Acceptor:
    """One association that a peer asked for."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.layer = UpperLayer(self, house.limits, requestor=False)
        self._requester = Requester(self.layer)
        self._responder = Responder(self.layer, house.handlers, self._requester, self._served)
        self.inside = False
        self._asked = self._parting = False
        self._draining = self._closed = False
        self._vars = contextvars.Context()
        self._peer_ip: str | None = None

    @property
    def peer_ip(self) -> str:
        """The peer's address, "" where it has none."""
        if self._peer_ip is None:
            name = self.layer.transport.get_extra_info("peername")
            self._peer_ip = str(name[0]) if isinstance(name, tuple) else ""
        return self._peer_ip

    # What the upper layer calls.

    def opened(self) -> None:
        """Tell the listener."""
        self._house.opened(self)

    def associate(self, kind: int, body: bytes) -> None:
        """Answer a request for an association. Raises: Breach, Rejection."""
        if kind != pdu.ASSOCIATE_RQ:
            raise Breach("an answer to an association that nobody asked for", pdu.UNEXPECTED_PDU)
        self._asked = True
        request = associate.read_request(body)
        self._vars = contextvars.copy_context()
        self._vars.run(
            structlog.contextvars.bind_contextvars, association=secrets.token_hex(4), calling_aet=request.calling_aet
        )
        caller = self._house.admit(request, self.peer_ip)
        self.inside = True
        self._house.entered(self)
        settled, answer = associate.negotiate(request, self._house.policy)
        self._requester.establish(settled)
        self._responder.establish(settled, caller, self._vars)
        self.layer.accept(answer, frozenset(settled.contexts))
        self._vars.run(_log.debug, "association.accepted", contexts=len(settled.contexts), peer_ip=self.peer_ip)

    def message(self, message: Message) -> bool:
        """Serve a request, or match a response to the request of ours that it answers. Raises: Breach."""
        if message.command.command_field & RESPONSE:
            self._requester.take(message)
            return True
        return self._responder.take(message)

    def release_asked(self) -> None:
        """Part, when the message at hand is answered."""
        if self._responder.task is None:
            self.layer.answer_release()
        else:
            self._parting = True

    def ended(self, ending: Ending, problem: PeerError) -> None:
        """Count it, and log what was not a proper end."""
        if ending is Ending.LOST and not self._asked:
            ending = Ending.GARBAGE  # a probe that only connects
        metrics.ASSOCIATIONS.labels(ending.value).inc()
        if isinstance(problem, Rejection):
            self._vars.run(_log.warning, "association.rejected", reason=str(problem), peer_ip=self.peer_ip)
        elif self.inside and ending is not Ending.RELEASED:
            self._vars.run(_log.info, "association.aborted", outcome=ending.value, reason=str(problem))
        self._requester.ended(problem)
        self._responder.ended()
        self._leave()

    def closed(self) -> None:
        """Forget the socket."""
        self._closed = True
        self._leave()

    # What the listener calls.

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, so that the association can be ended without loss."""
        return self._responder.task is None and not self.layer.receiver.within

    def drain(self) -> None:
        """End the association, now or when the message at hand is answered."""
        self._draining = True
        if self.idle:
            self.layer.abort(PeerError("this node is stopping", transient=True))

    def turn_away(self) -> None:
        """Close the socket of a peer that has not asked for an association, or that is done with one."""
        self.layer.drop()

    def stop(self) -> asyncio.Task[None] | None:
        """End everything at once; return what is still to be waited for."""
        if not self.layer.over:
            self.layer.abort(PeerError("this node is stopping", transient=True))
        self.layer.transport.close()
        task = self._responder.task
        if task is not None:
            task.cancel()
        return task

    # Its own.

    def _leave(self) -> None:
        """Give the slot back; not before the handler has let go of the object, whatever became of the peer."""
        if self._responder.task is None and self.layer.over:
            if self.inside:
                self.inside = False
                self._house.left(self)
            if self._closed:
                self._house.closed(self)

    def _served(self) -> None:
        """Go on after a request was served."""
        self._leave()
        if self._parting:
            self.layer.answer_release()
        elif self._draining:
            self.layer.abort(PeerError("this node is stopping", transient=True))
        else:
            self.layer.next()


Admit = Callable[[Associate, str], Caller]
