"""C-MOVE and C-GET on the patient and study roots: finds the objects and has them sent (PS3.4 C.4.2, C.4.3).

Of C-MOVE the destination is one of [peers], and nothing else. The priority that a peer asks for is accepted and makes
no difference: everything is sent at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from dicomnode import log, metrics
from dicomnode.config import PeerTable, QueryTable, StoreScpTable
from dicomnode.dimse import status
from dicomnode.dimse.command import C_GET_RQ, C_MOVE_RQ, Originator
from dicomnode.dimse.outgoing import Opened, Transcoder
from dicomnode.dimse.requester import NotAccepted, Requester
from dicomnode.dimse.responder import Cancellation, Operations, Replies, Reply, Request
from dicomnode.dimse.retry import Retry
from dicomnode.dimse.sender import Sending, Sent, send
from dicomnode.errors import BadRequest, NodeError, PeerError, PluginError
from dicomnode.model.attributes import Level
from dicomnode.model.query import Location
from dicomnode.roles.storescp.hierarchy import (
    GET,
    MOVE,
    UNIQUE_KEYS,
    Model,
    agreed,
    check_unique_keys,
    identifier_of,
    own_title,
    read_level,
    texts_at,
    understood,
)
from dicomnode.roles.storescp.suboperations import Kept, KeptFirst, Suboperations
from dicomnode.services.retrieve import Chosen, Retrieve, TooMany

_log = log.get(__name__)

_EVERY_S = 1.0  # between two pending responses
_EVERY = 100  # sub-operations between two of C-GET
_RETRY = Retry(attempts=3)


class RetrievalScp:
    """Answer C-MOVE and C-GET from the storage. Without a transcoder objects go as they are kept or not at all."""

    def __init__(
        self,
        table: QueryTable,
        door: StoreScpTable,
        peers: Mapping[str, PeerTable],
        retrieve: Retrieve,
        transcoder: Transcoder | None = None,
    ) -> None:
        self._table = table
        self._door = door
        self._peers = tuple(peers.values())
        self._retrieve = retrieve
        self.transcoder = KeptFirst(transcoder) if transcoder is not None else None

    def operations(self) -> Operations:
        """Return what is answered."""
        return {
            **{(C_MOVE_RQ, sop_class): self.move for sop_class in MOVE},
            **{(C_GET_RQ, sop_class): self.get for sop_class in GET},
        }

    async def move(self, request: Request) -> Replies:
        """Send what is asked for to the destination, over associations of its own, and tell how far that is."""
        destination = self._destination(request)
        if destination is None:
            yield Reply(status.MOVE_DESTINATION_UNKNOWN, error_comment="the destination is none of our peers")
            return
        try:
            locations = await self._select(request, MOVE[request.sop_class_uid])
        except NodeError as error:
            yield _refusal(error)
            return
        asked = Suboperations(len(locations), request.cancellation, request.transfer_syntax_uid)
        yield asked.pending()
        async with aclosing(self._send(request, destination, locations, asked)) as replies:
            async for reply in replies:
                yield reply
        yield asked.last()

    def _destination(self, request: Request) -> PeerTable | None:
        """Return the peer that is meant, unless it is somebody else's."""
        title, own = request.command.move_destination, ("", request.caller.tenant)
        return next((peer for peer in self._peers if peer.ae_title == title and peer.tenant in own), None)

    async def _send(
        self, request: Request, destination: PeerTable, locations: Sequence[Location], asked: Suboperations
    ) -> Replies:
        """Send `locations`, and yield a pending response each second."""
        sending = Sending(
            self._table.move_associations,
            _RETRY,
            self.transcoder,
            Originator(request.caller.calling_aet, request.command.message_id),
        )
        objects = [Kept(location, self._retrieve, request.cancellation) for location in locations]
        title = own_title(self._door, request.caller.called_aet)
        going = asyncio.create_task(send(destination, title, objects, asked.sent, sending))
        try:
            while not (await asyncio.wait([going], timeout=_EVERY_S))[0]:
                yield asked.pending()
            going.result()  # raises what is a bug
        finally:
            going.cancel()
            await asyncio.wait([going])

    async def get(self, request: Request) -> Replies:
        """Send what is asked for over the same association, and tell how far that is."""
        try:
            locations = await self._select(request, GET[request.sop_class_uid])
        except NodeError as error:
            yield _refusal(error)
            return
        loop = asyncio.get_running_loop()
        asked = Suboperations(len(locations), request.cancellation, request.transfer_syntax_uid)
        yield asked.pending()
        told_at, told = loop.time(), asked.remaining
        async with aclosing(self._opened(request.partner, locations, request.cancellation)) as objects:
            async for kept, opened, syntax in objects:
                asked.sent(await _store(request.partner, kept, opened, syntax))
                if request.cancellation.asked:
                    break
                if loop.time() - told_at >= _EVERY_S or told - asked.remaining >= _EVERY:
                    told_at, told = loop.time(), asked.remaining
                    yield asked.pending()
        yield asked.last()

    async def _opened(
        self, partner: Requester, locations: Sequence[Location], cancellation: Cancellation
    ) -> AsyncGenerator[tuple[Kept, Opened | NodeError, str], None]:
        """Yield each object opened as the peer takes it, or why it cannot be; the next is read meanwhile."""
        ahead: asyncio.Task[tuple[Kept, Opened | NodeError, str]] | None = None
        try:
            for place in range(len(locations) + 1):
                now = ahead
                if place < len(locations):
                    kept = Kept(locations[place], self._retrieve, cancellation)
                    ahead = asyncio.create_task(self._open(partner, kept))
                if now is not None:
                    yield await now
        finally:
            if ahead is not None:
                await _let_go(ahead)

    async def _open(self, partner: Requester, kept: Kept) -> tuple[Kept, Opened | NodeError, str]:
        syntax = kept.transfer_syntax_uid
        try:
            if partner.accepts(kept.sop_class_uid, syntax):
                return kept, await kept.open(), syntax
            taken = partner.syntaxes(kept.sop_class_uid)
            targets = self.transcoder.targets if self.transcoder else ()
            target = next((uid for uid in targets if uid in taken), "")
            if self.transcoder is None or not target:
                return kept, NotAccepted(f"the peer does not accept {kept.sop_class_uid} in {syntax}"), syntax
            return kept, await self.transcoder.transcode(kept, target), target
        except NodeError as error:
            return kept, error, syntax

    async def _select(self, request: Request, model: Model) -> Sequence[Location]:
        """Return where what is asked for is kept. Raises: BadRequest, Unavailable."""
        chosen = await understood(request, lambda asked: self._chosen(asked, model))
        return await self._retrieve.select(chosen, self._table.objects)

    def _chosen(self, request: Request, model: Model) -> Chosen:
        identifier = identifier_of(request)
        level = read_level(identifier, model)
        if not agreed(request.extended, 0) and self._table.relational != "always":
            check_unique_keys(identifier, model, level)
        named = {each: texts_at(identifier, UNIQUE_KEYS[each][0]) for each in Level if model.first <= each <= level}
        if not named[level] or any("*" in uid or "?" in uid for uids in named.values() for uid in uids):
            raise BadRequest(f"{UNIQUE_KEYS[level][1]} is needed at this level, without wild cards")
        return Chosen(request.caller.tenant, *(named.get(each, ()) for each in Level))

    def agree(self, sop_class_uid: str, asked: bytes) -> bytes | None:
        """Return what is agreed of the extended negotiation that `asked` for; None where there is nothing to agree on.

        Relational retrieval, and no conversion to or from enhanced multi-frame objects. Source: PS3.4 C.5.2.1, C.5.3.1.
        """
        if sop_class_uid not in MOVE and sop_class_uid not in GET:
            return None
        offered = (self._table.relational != "never", False)
        return bytes(int(byte == 1 and can) for byte, can in zip(asked, offered, strict=False))


async def _store(partner: Requester, kept: Kept, opened: Opened | NodeError, syntax: str) -> Sent[Kept]:
    """Send one object over the association of the C-GET. Raises: PeerError, when that is over."""
    if isinstance(opened, NodeError):
        return Sent(kept, None, str(opened))
    try:
        told = await partner.store(kept.sop_class_uid, kept.sop_instance_uid, syntax, opened.first, opened.rest)
    except PluginError as error:
        _log.warning("retrieval.aborted", reason=str(error))
        raise PeerError("this end aborted the association") from error
    finally:
        await opened.close()
    return Sent(kept, told, "", status.is_transient(told), syntax)


async def _let_go(ahead: asyncio.Task[tuple[Any, Opened | NodeError, str]]) -> None:
    """Be done with an object that was opened and is not wanted any more."""
    ahead.cancel()
    await asyncio.wait([ahead])
    if not ahead.cancelled() and isinstance(opened := ahead.result()[1], Opened):
        await opened.close()


def _refusal(error: NodeError) -> Reply:
    """Return the only response to a question that failed (PS3.4 C.4.2.1.5, C.4.3.1.4)."""
    metrics.failed("retrieve", error)
    if isinstance(error, TooMany):
        return Reply(status.UNABLE_TO_CALCULATE_MATCHES, error_comment=str(error))
    if isinstance(error, BadRequest):
        return Reply(status.IDENTIFIER_DOES_NOT_MATCH, error_comment=str(error))
    if isinstance(error, PluginError):
        return Reply(status.UNABLE_TO_CALCULATE_MATCHES, error_comment="the index cannot be read now")
    return Reply(status.CANNOT_UNDERSTAND, error_comment=type(error).__name__)
