"""The end that serves: one association, from the connection to its end (PS3.7 9.3, PS3.8 7)."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from dicomnode import log, metrics
from dicomnode.config import LimitsTable
from dicomnode.dimse import associate, pdu
from dicomnode.dimse.associate import Policy
from dicomnode.dimse.command import RESPONSE
from dicomnode.dimse.handshake import Waiting
from dicomnode.dimse.items import Associate
from dicomnode.dimse.pdu import Breach, Rejection
from dicomnode.dimse.protocol import Ending, UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.dimse.requester import Requester
from dicomnode.dimse.responder import Caller, Handlers, Responder
from dicomnode.dimse.tls import Certificate, address_of, certificate_of
from dicomnode.errors import PeerError

_log = log.get(__name__)


class Visitor(msgspec.Struct, frozen=True):
    """Where an association comes from; `certificate` is what was shown and verified on TLS."""

    peer_ip: str
    certificate: Certificate | None = None


class House(Protocol):
    """What the associations of one listener share."""

    policy: Policy
    limits: LimitsTable
    handlers: Handlers

    def admit(self, request: Associate, visitor: Visitor) -> Caller | Coroutine[Any, Any, Caller]:
        """Return who it is that asks, at once or when that is known. Raises: Rejection."""

    def enter(self, acceptor: Acceptor) -> None:
        """Count an association among those inside. Raises: Rejection, as there are too many."""

    def opened(self, waiting: Waiting) -> None:
        """Learn of a socket."""

    def left(self, acceptor: Acceptor) -> None:
        """Count an association out that `enter` counted in."""

    def closed(self, waiting: Waiting) -> None:
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
        self._deciding: asyncio.Task[Caller] | None = None

    @property
    def peer_ip(self) -> str:
        """The peer's address, "" where it has none."""
        if self._peer_ip is None:
            self._peer_ip = address_of(self.layer.transport)
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
        caller = self._house.admit(request, Visitor(self.peer_ip, certificate_of(self.layer.transport)))
        if isinstance(caller, Caller):
            self._let_in(request, caller)
        else:
            self._deciding = asyncio.get_running_loop().create_task(caller, context=self._vars)
            self._deciding.add_done_callback(partial(self._decided, request), context=self._vars)

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
        # A copy, because the request at hand may be running in it.
        if isinstance(problem, Rejection):
            self._vars.copy().run(_log.warning, "association.rejected", reason=str(problem), peer_ip=self.peer_ip)
        elif self.inside and ending is not Ending.RELEASED:
            self._vars.copy().run(_log.info, "association.aborted", outcome=ending.value, reason=str(problem))
        if self._deciding is not None:
            self._deciding.cancel()
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
        if self.idle and self._deciding is None:
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

    def _decided(self, request: Associate, deciding: asyncio.Task[Caller]) -> None:
        """Answer a request, now that it is known who asks; what came before that has ended it (PS3.8 Sta3)."""
        self._deciding = None
        if deciding.cancelled():
            return
        error = deciding.exception()
        try:
            if error is None:
                self._let_in(request, deciding.result())
        except PeerError as problem:
            error = problem
        if isinstance(error, PeerError):
            self.layer.fail(error)
        elif error is not None:
            _log.error("association.failed", exc_info=error)
            self.layer.fail(Rejection("a fault of this node", 2, 1, 1))

    def _let_in(self, request: Associate, caller: Caller) -> None:
        """Agree to the association. Raises: Rejection."""
        self._house.enter(self)
        self.inside = True
        policy = self._house.policy.of_peer(caller.services)
        settled, answer = associate.negotiate(request, policy, confirmed=bool(caller.user))
        self._requester.establish(settled)
        self._responder.establish(settled, caller, self._vars)
        self.layer.accept(answer, frozenset(settled.contexts))
        self._vars.copy().run(_log.debug, "association.accepted", contexts=len(settled.contexts), peer_ip=self.peer_ip)

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


Admit = Callable[[Associate, Visitor], Caller | Coroutine[Any, Any, Caller]]
