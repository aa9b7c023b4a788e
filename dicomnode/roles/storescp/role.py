"""The DIMSE door: translates C-STORE to `ingest` and what went wrong to statuses. It holds no rules about objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Protocol, Self

from dicomnode.config import PeerTable, StoreScpTable, is_loopback
from dicomnode.dimse import status
from dicomnode.dimse.items import Associate
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.responder import Caller, Operations, StoreRequest
from dicomnode.errors import BadInstance, Corrupt, Full, Mismatch, NodeError, Refused, Unavailable
from dicomnode.model.instance import Arrival, Door, Stored
from dicomnode.ports.storage import Buffer
from dicomnode.roles.storescp.peers import KnownPeers

# The first that fits counts.
_STATUSES: tuple[tuple[type[NodeError], int], ...] = (
    (Mismatch, status.DATA_SET_DOES_NOT_MATCH),
    (BadInstance, status.CANNOT_UNDERSTAND),
    (Refused, status.NOT_AUTHORIZED),
    (Full, status.OUT_OF_RESOURCES),
    (Unavailable, status.OUT_OF_RESOURCES),
    (Corrupt, status.CANNOT_UNDERSTAND),
)

_CALLING_NOT_RECOGNISED = 3
_CALLED_NOT_RECOGNISED = 7
_LOOK_UP_EVERY_S = 60.0


class Ingest(Protocol):
    """What this door needs of the service behind it."""

    async def store(self, arrival: Arrival, data_set: Buffer) -> Stored:
        """Take in a whole data set; the buffer is not used after the return."""

    async def store_stream(self, arrival: Arrival, first: Buffer, rest: AsyncIterator[Buffer]) -> Stored:
        """Take in a data set of which only the first part is here yet."""


class StoreScp:
    """Receive objects over DIMSE. Entering binds the address, leaving drains."""

    name = "storescp"

    def __init__(self, table: StoreScpTable, peers: Mapping[str, PeerTable], tenant: str, ingest: Ingest) -> None:
        self._table = table
        self._peers = KnownPeers(peers.values())
        self._tenant = tenant
        self._ingest = ingest
        self.operations: Operations = {}
        self._listener = Listener(table, self._admit, self)

    async def __aenter__(self) -> Self:
        await self._peers.look_up()
        await self._listener.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.drain()

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and port that are bound."""
        return self._listener.address

    @property
    def address(self) -> str:
        """Where peers find this node, as AET@host:port."""
        host, port = self.endpoint
        return f"{self._table.ae_title}@{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self) -> None:
        """Serve until cancelled; then let the messages at hand be answered."""
        try:
            while self._peers.has_names:
                await asyncio.sleep(_LOOK_UP_EVERY_S)
                await self._peers.look_up()
            await asyncio.Event().wait()
        finally:
            await self._listener.drain()

    async def store(self, request: StoreRequest) -> int:
        """Keep an object; return the status of the C-STORE response (PS3.4 B.2.3)."""
        caller = request.caller
        arrival = Arrival(
            caller.tenant,
            Door.STORESCP,
            request.transfer_syntax_uid,
            request.affected_sop_class_uid,
            request.affected_sop_instance_uid,
            "",
            caller.calling_aet,
            caller.peer_ip,
        )
        try:
            if request.rest is None:
                await self._ingest.store(arrival, request.data)
            else:
                await self._ingest.store_stream(arrival, request.data, request.rest)
        except _TRANSLATED as error:
            return next(told for kind, told in _STATUSES if isinstance(error, kind))
        return status.SUCCESS

    def _admit(self, request: Associate, peer_ip: str) -> Caller:
        table = self._table
        if not table.any_called_ae_title and request.called_aet != table.ae_title:
            raise Rejection("a called AE title that is not ours", 1, 1, _CALLED_NOT_RECOGNISED)
        if not self._knows(request.calling_aet, peer_ip):
            raise Rejection("a peer that is not known", 1, 1, _CALLING_NOT_RECOGNISED)
        return Caller(request.calling_aet, request.called_aet, peer_ip, self._tenant)

    def _knows(self, calling_aet: str, peer_ip: str) -> bool:
        accept = self._table.accept_unknown_peers
        if accept or (accept is None and is_loopback(peer_ip)):
            return True
        return self._peers.knows(calling_aet, peer_ip)


_TRANSLATED = tuple(kind for kind, _ in _STATUSES)
