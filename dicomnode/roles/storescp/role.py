"""The DIMSE door: translates C-STORE to `ingest` and what went wrong to statuses. It holds no rules about objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from dicomnode import log, metrics
from dicomnode.config import PeerTable, StoreScpTable
from dicomnode.dicom.digest import Digest
from dicomnode.dimse import status
from dicomnode.dimse.associate import Policy
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.responder import Operations, StoreRequest
from dicomnode.errors import BadInstance, ConfigError, Corrupt, Full, Mismatch, NodeError, Refused, Unavailable
from dicomnode.model.instance import Arrival, Door, Stored
from dicomnode.ports.storage import Buffer
from dicomnode.roles.storescp.admission import Admission, read_tenant
from dicomnode.roles.storescp.identity import Identities
from dicomnode.roles.storescp.measured import measured
from dicomnode.roles.storescp.peers import KnownPeers
from dicomnode.services.watermark import Watermark

_log = log.get(__name__)

# The first that fits counts.
_STATUSES: tuple[tuple[type[NodeError], int], ...] = (
    (Mismatch, status.DATA_SET_DOES_NOT_MATCH),
    (BadInstance, status.CANNOT_UNDERSTAND),
    (Refused, status.NOT_AUTHORIZED),
    (Full, status.OUT_OF_RESOURCES),
    (Unavailable, status.OUT_OF_RESOURCES),
    (Corrupt, status.CANNOT_UNDERSTAND),
)

_LOOK_UP_EVERY_S = 60.0


class Ingest(Protocol):
    """What this door needs of the service behind it."""

    async def store(self, arrival: Arrival, data_set: Buffer, digest: Digest | None = None) -> Stored:
        """Take in a whole data set; the buffer is not used after the return."""

    async def store_stream(self, arrival: Arrival, first: Buffer, rest: AsyncIterator[Buffer]) -> Stored:
        """Take in a data set of which only the first part is here yet."""


class Subject(Protocol):
    """Something that this door answers beside C-STORE and C-ECHO.

    One that is an async context manager as well is entered with the door, before it opens, and left when it is drained.
    """

    def operations(self) -> Operations:
        """Return what is answered."""


@runtime_checkable
class Agreeing(Protocol):
    """A subject that answers SOP class extended negotiation (PS3.7 D.3.3.5)."""

    def agree(self, sop_class_uid: str, asked: bytes) -> bytes | None:
        """Return what is agreed of what was asked for a SOP class, None where there is nothing to agree on."""


class StoreScp:
    """Receive objects over DIMSE and answer `subjects`. Entering binds the address, leaving drains."""

    name = "storescp"

    def __init__(  # noqa: PLR0913 -- one for each room that the door opens onto
        self,
        table: StoreScpTable,
        peers: Mapping[str, PeerTable],
        tenant: str,
        ingest: Ingest,
        subjects: Sequence[Subject] = (),
        *,
        identities: Identities | None = None,
        watermark: Watermark | None = None,
    ) -> None:
        self._table = table
        self._peers = KnownPeers(peers.values())
        self._ingest = ingest
        self._watermark = watermark
        self.subjects = tuple(subjects)
        self._entered = AsyncExitStack()
        self.operations = measured({name: do for one in subjects for name, do in one.operations().items()})
        admission = Admission(table, self._peers, tenant, identities or Identities({}), watermark)
        self._listener = Listener(table, admission, self, self._agree)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for subject in self.subjects:
                if isinstance(subject, AbstractAsyncContextManager):
                    await stack.enter_async_context(subject)
            await self._peers.look_up()
            if self._watermark is not None:
                await self._watermark.look()
            await self._listener.open()
            self._entered = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.drain()
        await self._entered.aclose()

    @property
    def policy(self) -> Policy:
        """What is agreed to in a negotiation."""
        return self._listener.policy

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and port that are bound."""
        return self._listener.address

    @property
    def address(self) -> str:
        """Where peers find this node, as AET@host:port."""
        return self._written(self.endpoint)

    @property
    def tls_address(self) -> str:
        """Where peers find this node on TLS, as AET@host:port, "" for nowhere."""
        endpoint = self._listener.tls_address
        return self._written(endpoint) if endpoint else ""

    def _written(self, endpoint: tuple[str, int]) -> str:
        host, port = endpoint
        return f"{self._table.ae_title}@{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self) -> None:
        """Serve until cancelled; then let the messages at hand be answered."""
        try:
            async with asyncio.TaskGroup() as beside:
                beside.create_task(self._look_up())
                if self._watermark is not None:
                    beside.create_task(self._watermark.watch())
                await asyncio.Event().wait()
        finally:
            await self._listener.drain()

    async def reload(self) -> None:
        """Read the certificates again, for the associations to come; where that fails those in use stay."""
        if self._table.tls.port < 0:
            return
        try:
            await self._listener.read_certificates()
        except ConfigError as error:
            _log.error("certificates.refused", reason=str(error))
        else:
            _log.info("certificates.read")

    async def _look_up(self) -> None:
        while self._peers.has_names:
            await asyncio.sleep(_LOOK_UP_EVERY_S)
            await self._peers.look_up()

    async def store(self, request: StoreRequest) -> int:
        """Keep an object; return the status of the C-STORE response (PS3.4 B.2.3)."""
        caller, tenant = request.caller, self._tenant_of(request)
        if tenant is None:
            return status.CANNOT_UNDERSTAND
        if self._watermark is not None and self._watermark.low:
            return status.OUT_OF_RESOURCES
        arrival = Arrival(
            tenant,
            Door.STORESCP,
            request.transfer_syntax_uid,
            request.affected_sop_class_uid,
            request.affected_sop_instance_uid,
            "",
            caller.calling_aet,
            caller.peer_ip,
        )
        try:
            with metrics.handling("ingest"):
                if request.rest is None:
                    await self._ingest.store(arrival, request.data, request.digest)
                else:
                    await self._ingest.store_stream(arrival, request.data, request.rest)
        except _TRANSLATED as error:
            return next(told for kind, told in _STATUSES if isinstance(error, kind))
        return status.SUCCESS

    def _tenant_of(self, request: StoreRequest) -> str | None:
        """Return whose the object is, None where the command set names what is no tenant."""
        if not request.tenant or not self._table.tenant_element:
            return request.caller.tenant
        return read_tenant(request.tenant)

    def _agree(self, sop_class_uid: str, asked: bytes) -> bytes | None:
        for subject in self.subjects:
            if isinstance(subject, Agreeing) and (agreed := subject.agree(sop_class_uid, asked)) is not None:
                return agreed
        return None


_TRANSLATED = tuple(kind for kind, _ in _STATUSES)
