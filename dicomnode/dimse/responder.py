"""What one end does when the other asks: one request at a time, answered through `Handlers` (PS3.7 9, 10).

Both ends have one: the end that accepted the association, and the end that asked for it, which takes objects for C-GET
and reports of storage commitment.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Protocol

import msgspec

from dicomnode import log
from dicomnode.dicom.digest import Digest
from dicomnode.dimse import command as dimse_command
from dicomnode.dimse import send, status
from dicomnode.dimse.associate import Context, Settled
from dicomnode.dimse.command import RESPONSE, Command
from dicomnode.dimse.outbox import Outbox
from dicomnode.dimse.protocol import UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.dimse.requester import Requester
from dicomnode.dimse.service import ECHO, EVERY, VERIFICATION, service_of
from dicomnode.errors import PeerError

_log = log.get(__name__)


class Caller(msgspec.Struct, frozen=True):
    """Who is at the other end, and for whom: `tenant` is where its objects go, `user` who it proved to be, or "".

    `services` are those that it may ask for.
    """

    calling_aet: str = ""
    called_aet: str = ""
    peer_ip: str = ""
    tenant: str = ""
    user: str = ""
    services: frozenset[str] = EVERY

    def may_ask(self, command_field: int, sop_class_uid: str) -> bool:
        """Tell whether it may send this command in a presentation context of this SOP class."""
        return self.services is EVERY or _service(command_field, sop_class_uid) in self.services


def _service(command_field: int, sop_class_uid: str) -> str:
    return ECHO if command_field == dimse_command.C_ECHO_RQ else service_of(sop_class_uid)


class StoreRequest(msgspec.Struct, frozen=True):
    """An object that a peer sends. `data` is lent until the handler returns; `rest` follows it in a large object.

    `tenant` is what the command set names (element 1211,1217), or ""; `digest` is that of the beginning of `data`.
    """

    caller: Caller
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    transfer_syntax_uid: str
    data: memoryview
    rest: AsyncIterator[memoryview] | None = None
    tenant: str = ""
    digest: Digest | None = None


class Cancellation:
    """Whether the peer wants no more of what it asked for."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = False


class Request(msgspec.Struct, frozen=True):
    """Anything but C-STORE and C-ECHO that a peer asks for. `data` is its data set as it came, b"" where it has none.

    `sop_class_uid` is the abstract syntax of the presentation context, `extended` what was agreed for it in SOP class
    extended negotiation (b"" for nothing). `partner` asks the peer in return, for as long as the association stands;
    what belongs to this request goes out on `context_id`.
    """

    caller: Caller
    command: Command
    sop_class_uid: str
    transfer_syntax_uid: str
    data: bytes
    extended: bytes
    partner: Requester
    cancellation: Cancellation
    context_id: int = 0


class Reply(msgspec.Struct, frozen=True):
    """One response to a request. Only the last may have a status that is not pending."""

    status: int
    data: bytes = b""
    error_comment: str = ""
    error_id: int | None = None
    sop_instance_uid: str = ""
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None


Replies = AsyncGenerator[Reply, None]
Operation = Callable[[Request], Replies]
Operations = Mapping[tuple[int, str], Operation]  # by command field and SOP class


class Handlers(Protocol):
    """What a node does when it is asked. What escapes a handler is a bug and is answered 0110."""

    @property
    def operations(self) -> Operations:
        """What is answered beside C-STORE and C-ECHO."""

    async def store(self, request: StoreRequest) -> int:
        """Keep an object; return the status of the C-STORE response (PS3.4 B.2.3)."""


class Responder:
    """Serve the requests of one association. `done` is told after each, before the next is taken."""

    def __init__(self, layer: UpperLayer, handlers: Handlers, requester: Requester, done: Callable[[], None]) -> None:
        self._layer = layer
        self._handlers = handlers
        self._requester = requester
        self._done = done
        self._outbox = Outbox(layer)
        self._caller = Caller()
        self._contexts: Mapping[int, Context] = {}
        self._extended: Mapping[str, bytes] = {}
        self._longest = 0
        self._vars: contextvars.Context | None = None
        self._current: tuple[int, Cancellation] | None = None
        self.task: asyncio.Task[None] | None = None

    def establish(self, settled: Settled, caller: Caller, variables: contextvars.Context | None = None) -> None:
        """Learn what was agreed upon, who asks, and in which context its requests are served."""
        self._caller = caller
        self._contexts = settled.contexts
        self._extended = settled.extended
        self._longest = send.longest_fragment(settled.max_pdu)
        self._vars = variables

    def take(self, message: Message) -> bool:
        """Serve a request, an echo at once, anything else in a task of its own; return whether it is done with."""
        field = message.command.command_field
        if field == dimse_command.C_CANCEL_RQ:
            self._cancel(message.command.responding_to)
            return True
        if field == dimse_command.C_ECHO_RQ and message.data is None and not self._layer.clogged:
            self._answer(message, Reply(status.SUCCESS if self._may(message) else status.NOT_AUTHORIZED))
            return True
        self.task = asyncio.get_running_loop().create_task(self._serve(message), context=self._vars)
        return False

    def ended(self) -> None:
        """Let what is under way know that nobody waits for it."""
        if self._current is not None:
            self._current[1].asked = True

    # Its own.

    def _cancel(self, message_id: int) -> None:
        if self._current is not None and self._current[0] == message_id:
            self._current[1].asked = True

    async def _serve(self, message: Message) -> None:
        try:
            if message.command.command_field == dimse_command.C_STORE_RQ:
                result = await self._store(message)
                if message.rest is not None:
                    # The sender hears of a failure only after it has said all; many would not listen before.
                    await message.rest.drain()
                self._answer(message, Reply(result))
                # A peer that asks and never listens must not fill our memory with answers.
                await self._layer.drained()
            else:
                await self._operate(message)
        except PeerError:
            pass  # it went away; `ended` has told
        finally:
            self.task = self._current = None
            self._done()

    async def _store(self, message: Message) -> int:
        context, command = self._contexts[message.context_id], message.command
        if not self._may(message):
            return status.NOT_AUTHORIZED
        if context.abstract_syntax == VERIFICATION or not context.as_scp:
            return status.SOP_CLASS_NOT_SUPPORTED
        if message.data is None:
            return status.CANNOT_UNDERSTAND
        request = StoreRequest(
            self._caller,
            command.affected_sop_class_uid,
            command.affected_sop_instance_uid,
            context.transfer_syntax,
            message.data,
            message.rest,
            command.tenant,
            message.digest,
        )
        try:
            return await self._handlers.store(request)
        except Exception as error:
            if self._is_gone(error):
                raise
            _log.exception("message.failed")
            return status.PROCESSING_FAILURE

    async def _operate(self, message: Message) -> None:
        try:
            async with aclosing(self._replies(message)) as replies:
                async for reply in replies:
                    self._answer(message, reply)
                    if self._layer.clogged:
                        await self._layer.drained()
        except Exception as error:
            if self._is_gone(error):
                raise
            _log.exception("message.failed")
            self._answer(message, Reply(status.PROCESSING_FAILURE))

    def _replies(self, message: Message) -> Replies:
        command, context = message.command, self._contexts[message.context_id]
        if not self._may(message):
            return _only(Reply(status.NOT_AUTHORIZED))
        if command.command_field == dimse_command.C_ECHO_RQ:
            return _only(Reply(status.SUCCESS))
        # Reports come from the SCP (PS3.7 10.1.1).
        if not (context.as_scu if command.command_field == dimse_command.N_EVENT_REPORT_RQ else context.as_scp):
            return _only(Reply(status.SOP_CLASS_NOT_SUPPORTED))
        operation = self._handlers.operations.get((command.command_field, context.abstract_syntax))
        if operation is None:
            return _only(Reply(status.UNRECOGNIZED_OPERATION))
        cancellation = Cancellation()
        self._current = command.message_id, cancellation
        data = bytes(message.data) if message.data is not None else b""
        extended = self._extended.get(context.abstract_syntax, b"")
        return operation(
            Request(
                self._caller, command, context.abstract_syntax, context.transfer_syntax, data, extended,
                self._requester, cancellation, context.context_id,
            )
        )  # fmt: skip

    def _may(self, message: Message) -> bool:
        return self._caller.may_ask(message.command.command_field, self._contexts[message.context_id].abstract_syntax)

    def _is_gone(self, error: Exception) -> bool:
        """Tell whether a handler failed because nobody is there any more."""
        return isinstance(error, PeerError) and self._layer.over

    def _answer(self, message: Message, reply: Reply) -> None:
        request = message.command
        is_match = reply.status in _MATCHES and reply.remaining is None
        if request.command_field == dimse_command.C_STORE_RQ:
            command_set = dimse_command.encode_store_rsp(request, reply.status)
        elif is_match:
            command_set = _encode_match(request, reply.status, bool(reply.data))
        else:
            command_set = dimse_command.encode(_response(request, reply))
        parts: list[bytes | memoryview] = list(send.command_parts(message.context_id, command_set, self._longest))
        if reply.data:
            parts += send.data_set_parts(message.context_id, reply.data, self._longest, last=True)
        if is_match:
            self._outbox.put(parts)  # a write for each of a thousand matches would take longer than finding them
        else:
            self._outbox.flush()
            self._layer.send(*parts)


_MATCHES = frozenset({status.PENDING, status.PENDING_WITH_WARNING})


@lru_cache(maxsize=64)
def _encode_match(request: Command, result: int, data_set: bool) -> bytes:
    """Return the command set that tells of a match, which is the same for each match of a question."""
    return dimse_command.encode(_response(request, Reply(result, b"-" if data_set else b"")))


def _response(request: Command, reply: Reply) -> Command:
    return Command(
        command_field=request.command_field | RESPONSE,
        data_set=bool(reply.data),
        responding_to=request.message_id,
        affected_sop_class_uid=request.affected_sop_class_uid or request.requested_sop_class_uid,
        affected_sop_instance_uid=(
            reply.sop_instance_uid or request.affected_sop_instance_uid or request.requested_sop_instance_uid
        ),
        status=reply.status,
        error_comment=reply.error_comment[:64],
        error_id=reply.error_id,
        event_type_id=request.event_type_id,
        action_type_id=request.action_type_id,
        remaining=reply.remaining,
        completed=reply.completed,
        failed=reply.failed,
        warning=reply.warning,
    )


async def _only(reply: Reply) -> Replies:
    yield reply
