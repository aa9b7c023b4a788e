"""What one end asks of the other on an association that stands, and the responses that come back (PS3.7 9, 10).

Both ends have one: the end that asked for the association, and the end that accepted it, which sends objects for C-GET.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Self

import msgspec

from dicomnode.dimse import command as dimse_command
from dicomnode.dimse import send
from dicomnode.dimse.associate import Context, Settled
from dicomnode.dimse.command import Command, Originator
from dicomnode.dimse.pdu import Breach
from dicomnode.dimse.protocol import UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.dimse.service import VERIFICATION
from dicomnode.dimse.status import is_pending
from dicomnode.errors import PeerError

_UNREAD_MOST = 1000  # responses that wait for whoever asked; then nothing more is read from the network


class NotAccepted(PeerError):
    """The peer takes no such object, or not in this transfer syntax."""


class Response(msgspec.Struct, frozen=True):
    """A response: its command set and its data set, b"" where it has none."""

    command: Command
    data: bytes

    @property
    def status(self) -> int:
        """What the peer says. Raises: PeerError, when it says nothing."""
        if self.command.status is None:
            raise PeerError("the peer answered without a status")
        return self.command.status


class Conversation:
    """The responses to one request, in order; the last is the first that is not pending. Raises: PeerError."""

    def __init__(self, requester: Requester, context_id: int, command: Command) -> None:
        self._requester = requester
        self._context_id = context_id
        self._command = command
        self._responses: deque[Response] = deque()
        self._news: asyncio.Future[None] | None = None
        self._problem: PeerError | None = None
        self._last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Response:
        while not self._responses:
            if self._last:
                raise StopAsyncIteration
            if self._problem is not None:
                raise self._problem
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        response = self._responses.popleft()
        self._requester.read(len(self._responses))
        return response

    @property
    def message_id(self) -> int:
        """The Message ID of the request."""
        return self._command.message_id

    @property
    def over(self) -> bool:
        """Whether no more will come, though some may still wait to be read."""
        return self._last or self._problem is not None

    def cancel(self) -> None:
        """Ask the peer to stop (C-CANCEL, PS3.7 9.3.2.3); the last response still comes."""
        if not self.over:
            self._requester.cancel(self._context_id, self._command)

    # What the requester calls.

    def take(self, response: Response) -> bool:
        """Take a response; return whether more are to come."""
        self._responses.append(response)
        self._last = not is_pending(response.command.status)
        self._wake()
        return not self._last

    def fail(self, problem: PeerError) -> None:
        """Learn that no more will come."""
        self._problem = problem
        self._wake()

    @property
    def unread(self) -> int:
        """How many responses wait to be read."""
        return len(self._responses)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Requester:
    """Send requests and match the responses to them. Nothing can be asked before `establish`."""

    def __init__(self, layer: UpperLayer) -> None:
        self._layer = layer
        self._contexts: Mapping[int, Context] = {}
        self._by_syntax: dict[tuple[str, str], int] = {}
        self._longest = 0
        self._message_id = 0
        self._waiting: dict[int, Conversation | asyncio.Future[Response]] = {}
        self._held = False
        self._sending = asyncio.Lock()
        self._problem: PeerError | None = None
        self._end = asyncio.Event()

    def establish(self, settled: Settled) -> None:
        """Learn what was agreed upon."""
        self._contexts = settled.contexts
        self._by_syntax = {
            (context.abstract_syntax, context.transfer_syntax): context.context_id
            for context in settled.contexts.values()
            if context.as_scu
        }
        self._longest = send.longest_fragment(settled.max_pdu)

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._problem is not None or self._layer.over

    async def lasts(self, seconds: float) -> bool:
        """Return whether the association still stands after so long, at once when it does not."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._end.wait(), seconds)
        return not self.over

    @property
    def idle(self) -> bool:
        """Whether no response is waited for."""
        return not self._waiting

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Tell whether such an object may be sent."""
        return (sop_class_uid, transfer_syntax_uid) in self._by_syntax

    def syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        """Return the transfer syntaxes in which this SOP class may be used by us as its SCU."""
        return tuple(syntax for sop_class, syntax in self._by_syntax if sop_class == sop_class_uid)

    def context(self, sop_class_uid: str) -> Context:
        """Return a presentation context in which we may be SCU of this SOP class. Raises: NotAccepted."""
        for context in self._contexts.values():
            if context.abstract_syntax == sop_class_uid and context.as_scu:
                return context
        raise NotAccepted(f"the peer does not accept {sop_class_uid}")

    async def echo(self) -> int:
        """Return the status with which the peer answered C-ECHO. Raises: PeerError."""
        command = Command(dimse_command.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION)
        return (await self.ask(self.context(VERIFICATION).context_id, command)).status

    async def store(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        data_set: bytes | memoryview,
        rest: AsyncIterator[bytes] | None = None,
        *,
        originator: Originator | None = None,
    ) -> int:
        """Send an object, `data_set` and then `rest`; return the peer's status (see `status.is_stored`).

        Raises: NotAccepted, when there is no presentation context for it; PeerError, when the association is over; what
            `rest` raises, and then the association is over too.
        """
        context_id = self._by_syntax.get((sop_class_uid, transfer_syntax_uid))
        if context_id is None:
            raise NotAccepted(f"the peer does not accept {sop_class_uid} in {transfer_syntax_uid}")
        message_id = self._next_id()
        command_set = dimse_command.encode_store_rq(message_id, sop_class_uid, sop_instance_uid, originator)
        response = self._expect(message_id)
        # The fragments of two messages may not mix (PS3.8 annex E.1).
        async with self._sending:
            await self._send_object(context_id, command_set, data_set, rest)
        return (await response).status

    async def ask(self, context_id: int, command: Command, data: bytes = b"") -> Response:
        """Send a request that has one response, and return that. `command` needs no Message ID. Raises: PeerError."""
        command = self._numbered(command, data)
        response = self._expect(command.message_id)
        self._send(context_id, command, data)
        return await response

    def converse(self, context_id: int, command: Command, data: bytes = b"") -> Conversation:
        """Send a request that may have many responses (C-FIND, C-GET, C-MOVE). Raises: PeerError."""
        self._check()
        command = self._numbered(command, data)
        conversation = Conversation(self, context_id, command)
        self._waiting[command.message_id] = conversation
        self._send(context_id, command, data)
        return conversation

    # What a conversation calls.

    def cancel(self, context_id: int, command: Command) -> None:
        """Send a C-CANCEL for a request of ours. Raises: PeerError."""
        self._send(context_id, Command(dimse_command.C_CANCEL_RQ, responding_to=command.message_id), b"")

    def read(self, unread: int) -> None:
        """Go on reading from the network once few responses are unread."""
        if self._held and unread < _UNREAD_MOST // 2:
            self._held = False
            self._layer.wanted()

    # What the end calls that owns the association.

    def take(self, message: Message) -> None:
        """Match a response to the request it answers. Raises: Breach."""
        number = message.command.responding_to
        waiting = self._waiting.get(number)
        if waiting is None:
            raise Breach("a response to another message" if self._waiting else "a response to nothing")
        response = Response(message.command, bytes(message.data) if message.data is not None else b"")
        if isinstance(waiting, asyncio.Future):
            del self._waiting[number]
            if not waiting.done():
                waiting.set_result(response)
        elif not waiting.take(response):
            del self._waiting[number]
        elif waiting.unread >= _UNREAD_MOST:
            self._held = True
            self._layer.hold()

    def ended(self, problem: PeerError) -> None:
        """Tell everyone who waits for a response that none will come."""
        self._problem = problem
        self._end.set()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if isinstance(one, Conversation):
                one.fail(problem)
            elif not one.done():
                one.set_exception(problem)
                one.exception()  # nobody may be waiting any more

    # Its own.

    async def _send_object(
        self, context_id: int, command_set: bytes, data_set: bytes | memoryview, rest: AsyncIterator[bytes] | None
    ) -> None:
        layer, longest = self._layer, self._longest
        piece, left = (data_set, b"") if rest is None else send.paired(data_set)
        layer.send(
            *send.command_parts(context_id, command_set, longest),
            *send.data_set_parts(context_id, piece, longest, last=rest is None),
        )
        try:
            await layer.drained()
            if rest is not None:
                async for chunk in rest:
                    piece, left = send.paired(left + chunk if left else chunk)
                    layer.send(*send.data_set_parts(context_id, piece, longest, last=False))
                    await layer.drained()
                layer.send(*send.data_set_parts(context_id, left, longest, last=True))
        except BaseException:
            if rest is not None:  # the peer waits for the end of an object, which will not come
                layer.abort(PeerError("this end aborted the association"))
            raise

    def _numbered(self, command: Command, data: bytes) -> Command:
        return msgspec.structs.replace(command, message_id=self._next_id(), data_set=bool(data))

    def _send(self, context_id: int, command: Command, data: bytes) -> None:
        parts: list[bytes | memoryview] = list(
            send.command_parts(context_id, dimse_command.encode(command), self._longest)
        )
        if data:
            parts += send.data_set_parts(context_id, data, self._longest, last=True)
        self._layer.send(*parts)

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _expect(self, message_id: int) -> asyncio.Future[Response]:
        self._check()
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[message_id] = response
        return response

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem
