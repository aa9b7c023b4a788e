"""The end that asks: one association, one request at a time (PS3.7 9.3)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dimse import associate, pdu, status, tls
from dicomnode.dimse.associate import Asking, Settled
from dicomnode.dimse.command import RESPONSE
from dicomnode.dimse.items import Proposal
from dicomnode.dimse.pdu import Breach
from dicomnode.dimse.protocol import Ending, UpperLayer
from dicomnode.dimse.receive import Message
from dicomnode.dimse.requester import Requester
from dicomnode.dimse.responder import Caller, Handlers, Operations, Responder, StoreRequest
from dicomnode.errors import PeerError

_LIMITS = LimitsTable()
_OUR_MAX_PDU = 1024 * 1024
_FAREWELL_S = 1.0  # for the last bytes to leave


def proposals(pairs: Sequence[tuple[str, Sequence[str]]]) -> tuple[Proposal, ...]:
    """Return presentation contexts for up to 128 pairs of SOP class and transfer syntaxes."""
    return tuple(Proposal(2 * i + 1, sop_class, tuple(syntaxes)) for i, (sop_class, syntaxes) in enumerate(pairs))


class _Nothing:
    """What an end serves that offers nothing."""

    @property
    def operations(self) -> Operations:
        """Nothing."""
        return {}

    async def store(self, request: StoreRequest) -> int:
        """Refuse: nobody asked for objects."""
        return status.SOP_CLASS_NOT_SUPPORTED


NOTHING = _Nothing()
NOTHING_MORE = Asking()


class Association:
    """An association that we asked for."""

    def __init__(
        self,
        peer: PeerTable,
        calling_aet: str,
        asked: Sequence[Proposal],
        limits: LimitsTable,
        handlers: Handlers,
        asking: Asking,
    ) -> None:
        self._peer = peer
        self._calling_aet = calling_aet
        self._asked = asked
        self._asking = asking
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._settled = Settled({}, 0, "", "")
        self.layer = UpperLayer(self, limits, requestor=True)
        self.requester = Requester(self.layer)
        self._handlers = handlers
        self._responder = Responder(self.layer, handlers, self.requester, self._served)

    @classmethod
    @asynccontextmanager
    async def request(
        cls,
        peer: PeerTable,
        calling_aet: str,
        asked: Sequence[Proposal],
        limits: LimitsTable = _LIMITS,
        handlers: Handlers = NOTHING,
        asking: Asking = NOTHING_MORE,
    ) -> AsyncIterator[Self]:
        """Hold an association with `peer` for the time of the context; then release it, or abort it if that raised.

        `handlers` serve what the peer asks in return: C-STORE for C-GET, reports of storage commitment. `asking`: what
        is to be negotiated beside the presentation contexts.

        Raises: PeerError, `transient` where the same may succeed later.
        """
        association = cls(peer, calling_aet, asked, limits, handlers, asking)
        await association._connect(limits.artim_s)
        try:
            await association._opened
            yield association
        except BaseException as error:
            if isinstance(error, (asyncio.CancelledError, GeneratorExit)) and association.requester.idle:
                # Nobody wants any more, but nothing went wrong.
                await association._release(limits.artim_s)
            else:
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
        return self.requester.accepts(sop_class_uid, transfer_syntax_uid)

    async def echo(self) -> int:
        """Return the status with which the peer answered C-ECHO. Raises: PeerError."""
        return await self.requester.echo()

    async def store(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        data_set: bytes | memoryview,
        rest: AsyncIterator[bytes] | None = None,
    ) -> int:
        """Send an object: see `Requester.store`."""
        return await self.requester.store(sop_class_uid, sop_instance_uid, transfer_syntax_uid, data_set, rest)

    # What the upper layer calls.

    def opened(self) -> None:
        """Ask for the association, if this is the peer that is meant."""
        try:
            tls.check_certificate(self._peer, self.layer.transport)
        except PeerError as problem:
            self.layer.hang_up(problem)
            return
        called = self._peer.ae_title
        self.layer.request(associate.encode_request(self._calling_aet, called, self._asked, _OUR_MAX_PDU, self._asking))

    def associate(self, kind: int, body: bytes) -> None:
        """Take the answer. Raises: Breach."""
        if kind == pdu.ASSOCIATE_RJ:
            self.layer.refused(associate.read_rejection(body))
            return
        self._settled = settled = associate.read_acceptance(body, self._asked, self._asking)
        self.requester.establish(settled)
        self._responder.establish(settled, Caller(self._peer.ae_title, self._calling_aet, self._peer.host))
        self.layer.establish(frozenset(settled.contexts))
        if not self._opened.done():
            self._opened.set_result(None)

    def message(self, message: Message) -> bool:
        """Take a response, or serve what the peer asks in return. Raises: Breach."""
        if message.command.command_field & RESPONSE:
            self.requester.take(message)
            return True
        if self._handlers is NOTHING:
            raise Breach("a message that nobody asked for")
        return self._responder.take(message)

    def release_asked(self) -> None:
        """Agree: an acceptor that wants to go cannot be held."""
        self.layer.answer_release()

    def ended(self, ending: Ending, problem: PeerError) -> None:
        """Tell whoever waits."""
        self.requester.ended(problem)
        self._responder.ended()
        if not self._opened.done():
            self._opened.set_exception(problem)
            self._opened.exception()  # nobody may be waiting any more
        if not self._over.done():
            self._over.set_result(None)

    def closed(self) -> None:
        """Let the end of the context wait no longer."""
        self._gone.set_result(None)

    # Its own.

    def _served(self) -> None:
        self.layer.next()

    async def _connect(self, most_s: float) -> None:
        loop, peer = asyncio.get_running_loop(), self._peer
        where = f"{peer.host}:{peer.port}"
        try:
            async with asyncio.timeout(most_s):
                secure = await tls.calling(peer)
                await loop.create_connection(lambda: self.layer, peer.host, peer.port, ssl=secure)
        except TimeoutError:
            raise PeerError(f"{where} does not answer", transient=True) from None
        except ssl.SSLError as error:
            raise tls.problem_of(error, where) from error
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
