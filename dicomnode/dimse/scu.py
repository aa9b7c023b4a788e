"""The end that asks: one association, one request at a time (PS3.7 9.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dimse import associate, pdu, send
from dicomnode.dimse import command as dimse_command
from dicomnode.dimse.associate import VERIFICATION, Settled
from dicomnode.dimse.command import RESPONSE, Command
from dicomnode.dimse.items import Proposal
from dicomnode.dimse.pdu import Breach
from dicomnode.dimse.protocol import Ending, UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.errors import PeerError

_LIMITS = LimitsTable()
_OUR_MAX_PDU = 1024 * 1024
_FAREWELL_S = 1.0  # for the last bytes to leave


class NotAccepted(PeerError):
    """The peer takes no such object, or not in this transfer syntax."""


def proposals(pairs: Sequence[tuple[str, Sequence[str]]]) -> tuple[Proposal, ...]:
    """Return presentation contexts for up to 128 pairs of SOP class and transfer syntaxes."""
    return tuple(Proposal(2 * i + 1, sop_class, tuple(syntaxes)) for i, (sop_class, syntaxes) in enumerate(pairs))


class Association:
    """An association that we asked for."""

    def __init__(self, asked: Sequence[Proposal], associate_rq: bytes, limits: LimitsTable) -> None:
        self._asked = asked
        self._associate_rq = associate_rq
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._response: asyncio.Future[Command] | None = None
        self._ending: tuple[Ending, PeerError] | None = None
        self._settled = Settled({}, 0, "", "")
        self._contexts: dict[tuple[str, str], int] = {}
        self._longest = 0
        self._message_id = 0
        self.layer = UpperLayer(self, limits, requestor=True)

    @classmethod
    @asynccontextmanager
    async def request(
        cls, peer: PeerTable, calling_aet: str, asked: Sequence[Proposal], limits: LimitsTable = _LIMITS
    ) -> AsyncIterator[Self]:
        """Hold an association with `peer` for the time of the context; then release it, or abort it if that raised.

        Raises: PeerError, `transient` where the same may succeed later.
        """
        associate_rq = associate.encode_request(calling_aet, peer.ae_title, asked, _OUR_MAX_PDU)
        association = cls(asked, associate_rq, limits)
        await association._connect(peer, limits.artim_s)
        try:
            await association._opened
            yield association
        except BaseException:
            association.layer.abort(PeerError("this end aborted the association"))
            raise
        else:
            await association._release(limits.artim_s)
        finally:
            await association._close()

    @property
    def settled(self) -> Settled:
        """What both ends agreed upon."""
        return self._settled

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Tell whether such an object may be sent."""
        return (sop_class_uid, transfer_syntax_uid) in self._contexts

    async def echo(self) -> int:
        """Return the status with which the peer answered C-ECHO. Raises: PeerError."""
        context = next((c for c in self._settled.contexts.values() if c.abstract_syntax == VERIFICATION), None)
        if context is None:
            raise NotAccepted("the peer does not accept C-ECHO")
        command = Command(dimse_command.C_ECHO_RQ, message_id=self._next_id(), affected_sop_class_uid=VERIFICATION)
        response = self._expect()
        self.layer.send(*send.command_parts(context.context_id, dimse_command.encode(command), self._longest))
        return _status(await response)

    async def store(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        data_set: bytes | memoryview,
        rest: AsyncIterator[bytes] | None = None,
    ) -> int:
        """Send an object, `data_set` and then `rest`; return the peer's status (see `status.is_stored`).

        Raises: NotAccepted, when there is no presentation context for it; PeerError, when the association is over.
        """
        context_id = self._contexts.get((sop_class_uid, transfer_syntax_uid))
        if context_id is None:
            raise NotAccepted(f"the peer does not accept {sop_class_uid} in {transfer_syntax_uid}")
        command_set = dimse_command.encode_store_rq(self._next_id(), sop_class_uid, sop_instance_uid)
        response = self._expect()
        layer, longest = self.layer, self._longest
        layer.send(
            *send.command_parts(context_id, command_set, longest),
            *send.data_set_parts(context_id, data_set, longest, last=rest is None),
        )
        if rest is not None:
            await layer.drained()
            async for chunk in rest:
                layer.send(*send.data_set_parts(context_id, chunk, longest, last=False))
                await layer.drained()
            layer.send(*send.data_set_parts(context_id, b"", longest, last=True))
        return _status(await response)

    # What the upper layer calls.

    def opened(self) -> None:
        """Ask for the association."""
        self.layer.request(self._associate_rq)

    def associate(self, kind: int, body: bytes) -> None:
        """Take the answer. Raises: Breach."""
        if kind == pdu.ASSOCIATE_RJ:
            self.layer.refused(associate.read_rejection(body))
            return
        self._settled = associate.read_acceptance(body, self._asked)
        contexts = self._settled.contexts
        self._contexts = {(c.abstract_syntax, c.transfer_syntax): c.context_id for c in contexts.values()}
        self._longest = send.longest_fragment(self._settled.max_pdu)
        self.layer.establish(frozenset(contexts))
        if not self._opened.done():
            self._opened.set_result(None)

    def message(self, message: Message) -> bool:
        """Take a response. Raises: Breach."""
        response = self._response
        if not message.command.command_field & RESPONSE or response is None:
            raise Breach("a message that nobody asked for")
        if message.command.responding_to != self._message_id:
            raise Breach("a response to another message")
        self._response = None
        if not response.done():
            response.set_result(message.command)
        return True

    def release_asked(self) -> None:
        """Agree: an acceptor that wants to go cannot be held."""
        self.layer.answer_release()

    def ended(self, ending: Ending, problem: PeerError) -> None:
        """Tell whoever waits."""
        self._ending = (ending, problem)
        for waiting in (self._opened, self._response):
            if waiting is not None and not waiting.done():
                waiting.set_exception(problem)
                waiting.exception()  # nobody may be waiting any more
        if not self._over.done():
            self._over.set_result(None)

    def closed(self) -> None:
        """Let the end of the context wait no longer."""
        self._gone.set_result(None)

    # Its own.

    async def _connect(self, peer: PeerTable, most_s: float) -> None:
        loop = asyncio.get_running_loop()
        where = f"{peer.host}:{peer.port}"
        try:
            async with asyncio.timeout(most_s):
                await loop.create_connection(lambda: self.layer, peer.host, peer.port)
        except TimeoutError:
            raise PeerError(f"{where} does not answer", transient=True) from None
        except OSError as error:
            raise PeerError(f"{where} cannot be reached: {error.strerror or error}", transient=True) from error

    async def _close(self) -> None:
        self.layer.transport.close()
        await asyncio.wait([self._gone], timeout=_FAREWELL_S)
        self.layer.transport.abort()

    async def _release(self, most_s: float) -> None:
        if self.layer.over:
            return
        self.layer.release()
        try:
            async with asyncio.timeout(most_s):
                await asyncio.shield(self._over)
        except TimeoutError:
            self.layer.abort(PeerError("the peer did not answer the release"), Ending.TIMED_OUT)

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _expect(self) -> asyncio.Future[Command]:
        if self._ending is not None:
            raise self._ending[1]
        self._response = asyncio.get_running_loop().create_future()
        return self._response


def _status(response: Command) -> int:
    if response.status is None:
        raise PeerError("the peer answered without a status")
    return response.status
