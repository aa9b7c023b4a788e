"""The end that serves: one association, one request at a time, answered through `Handlers` (PS3.7 9.3)."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec
import structlog

from dicomnode import log, metrics
from dicomnode.config import LimitsTable
from dicomnode.dimse import associate, pdu, send, status
from dicomnode.dimse import command as dimse_command
from dicomnode.dimse.associate import VERIFICATION, Context, Policy
from dicomnode.dimse.command import RESPONSE, Command
from dicomnode.dimse.items import Associate
from dicomnode.dimse.pdu import Breach, Rejection
from dicomnode.dimse.protocol import Ending, UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.errors import PeerError

_log = log.get(__name__)


class StoreRequest(msgspec.Struct, frozen=True):
    """An object that a peer sends. `data` is lent until the handler returns; `rest` follows it in a large object."""

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    transfer_syntax_uid: str
    calling_aet: str
    called_aet: str
    peer_ip: str
    data: memoryview
    rest: AsyncIterator[memoryview] | None = None


class Handlers(Protocol):
    """What a node does when it is asked. What escapes a handler is a bug and is answered 0110."""

    async def store(self, request: StoreRequest) -> int:
        """Keep an object; return the status of the C-STORE response (PS3.4 B.2.3)."""


class House(Protocol):
    """What the associations of one listener share."""

    policy: Policy
    limits: LimitsTable
    handlers: Handlers

    def admit(self, request: Associate, peer_ip: str) -> Rejection | None:
        """Return why this peer may not come in, or None and count it among those inside."""

    def opened(self, acceptor: Acceptor) -> None:
        """Learn of a socket."""

    def entered(self, acceptor: Acceptor) -> None:
        """Learn that a socket's association stands."""

    def left(self, acceptor: Acceptor) -> None:
        """Count an association out that `admit` counted in."""

    def closed(self, acceptor: Acceptor) -> None:
        """Forget a socket."""


class Acceptor:
    """One association, from the connection to its end."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.layer = UpperLayer(self, house.limits, requestor=False)
        self.inside = False
        self._contexts: dict[int, Context] = {}
        self._longest = 0
        self._task: asyncio.Task[None] | None = None
        self._asked = self._parting = False
        self._draining = self._closed = False
        self.calling_aet = self._called_aet = ""
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
        self.calling_aet, self._called_aet = request.calling_aet, request.called_aet
        self._vars = contextvars.copy_context()
        self._vars.run(
            structlog.contextvars.bind_contextvars, association=secrets.token_hex(4), calling_aet=self.calling_aet
        )
        rejection = self._house.admit(request, self.peer_ip)
        if rejection is not None:
            raise rejection
        self.inside = True
        self._house.entered(self)
        settled, answer = associate.negotiate(request, self._house.policy)
        self._contexts = dict(settled.contexts)
        self._longest = send.longest_fragment(settled.max_pdu)
        self.layer.accept(answer, frozenset(self._contexts))
        self._vars.run(_log.debug, "association.accepted", contexts=len(self._contexts), peer_ip=self.peer_ip)

    def message(self, message: Message) -> bool:
        """Serve a message, an echo at once, anything else in a task of its own. Raises: Breach."""
        field = message.command.command_field
        if field == dimse_command.C_CANCEL_RQ:
            return True  # nothing that can be cancelled runs here; it may also have come too late
        if field & RESPONSE:
            raise Breach("a response to nothing")
        if field == dimse_command.C_ECHO_RQ and message.data is None and not self.layer.clogged:
            self._answer(message, status.SUCCESS)
            return True
        self._task = asyncio.get_running_loop().create_task(self._serve(message), context=self._vars)
        return False

    def release_asked(self) -> None:
        """Part, when the message at hand is answered."""
        if self._task is None:
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
        self._leave()

    def closed(self) -> None:
        """Forget the socket."""
        self._closed = True
        self._leave()

    # What the listener calls.

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, so that the association can be ended without loss."""
        return self._task is None and not self.layer.receiver.within

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
        if self._task is not None:
            self._task.cancel()
        return self._task

    # Its own.

    def _leave(self) -> None:
        """Give the slot back; not before the handler has let go of the object, whatever became of the peer."""
        if self._task is None and self.layer.over:
            if self.inside:
                self.inside = False
                self._house.left(self)
            if self._closed:
                self._house.closed(self)

    async def _serve(self, message: Message) -> None:
        try:
            result = await self._result(message)
            if message.rest is not None:
                # The sender hears of a failure only after it has said all; many would not listen before.
                await message.rest.drain()
            self._answer(message, result)
            # A peer that asks and never listens must not fill our memory with answers.
            await self.layer.drained()
        except PeerError:
            pass  # it went away; `ended` has told
        finally:
            self._task = None
            self._leave()
        if self._parting:
            self.layer.answer_release()
        elif self._draining:
            self.layer.abort(PeerError("this node is stopping", transient=True))
        else:
            self.layer.next()

    async def _result(self, message: Message) -> int:
        if message.command.command_field == dimse_command.C_ECHO_RQ:
            return status.SUCCESS
        if message.command.command_field != dimse_command.C_STORE_RQ:
            return status.UNRECOGNIZED_OPERATION
        context = self._contexts[message.context_id]
        if context.abstract_syntax == VERIFICATION or not context.as_scp:
            return status.SOP_CLASS_NOT_SUPPORTED
        if message.data is None:
            return status.CANNOT_UNDERSTAND
        try:
            return await self._house.handlers.store(self._store_request(message, message.data, context))
        except Exception as error:
            if isinstance(error, PeerError) and self.layer.over:
                raise
            _log.exception("message.failed")
            return status.PROCESSING_FAILURE

    def _store_request(self, message: Message, data: memoryview, context: Context) -> StoreRequest:
        command = message.command
        return StoreRequest(
            command.affected_sop_class_uid,
            command.affected_sop_instance_uid,
            context.transfer_syntax,
            self.calling_aet,
            self._called_aet,
            self.peer_ip,
            data,
            message.rest,
        )

    def _answer(self, message: Message, result: int) -> None:
        request = message.command
        if request.command_field == dimse_command.C_STORE_RQ:
            command_set = dimse_command.encode_store_rsp(request, result)
        else:
            command_set = dimse_command.encode(
                Command(
                    command_field=request.command_field | RESPONSE,
                    responding_to=request.message_id,
                    affected_sop_class_uid=request.affected_sop_class_uid,
                    affected_sop_instance_uid=request.affected_sop_instance_uid,
                    status=result,
                )
            )
        self.layer.send(*send.command_parts(message.context_id, command_set, self._longest))


Admit = Callable[[Associate, str], Rejection | None]
