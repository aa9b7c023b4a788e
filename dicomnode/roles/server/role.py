"""The web door as a role: bound when entered, serving while it runs, drained when left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from dicomnode import log
from dicomnode.config import ServerTable
from dicomnode.roles.server.accessed import Accesses
from dicomnode.roles.server.call import Services
from dicomnode.roles.server.client_address import proxies
from dicomnode.roles.server.door import Door
from dicomnode.roles.server.listening import Listening
from dicomnode.roles.server.readiness import Answering
from dicomnode.services.access_log import AccessLog
from dicomnode.services.describe import Describe
from dicomnode.services.find import Find
from dicomnode.services.ingest import Ingest
from dicomnode.services.measure import Measure
from dicomnode.services.performed import PerformedSteps
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.statistics import Statistics
from dicomnode.services.worklist import Worklist

_LOG = log.get("server")
# How long to read on when a body was refused, so that its sender comes to see the answer.
_LINGER_S = 3.0
_READ_BUFFER = 1024 * 1024
_LONGEST_LINE = 64 * 1024
_LONGEST_FIELD = 16 * 1024


class Server:
    """The web door. `tenant` is that of requests which name none; `backends` are pinged, by the name of their port.

    `listening` is the door's address where somebody has bound it already.
    """

    name = "server"

    def __init__(  # noqa: PLR0913 -- one for each room that the door opens onto
        self,
        table: ServerTable,
        tenant: str,
        *,
        ingest: Ingest,
        find: Find,
        retrieve: Retrieve,
        describe: Describe,
        worklist: Worklist,
        performed: PerformedSteps,
        measure: Measure,
        backends: Mapping[str, Answering],
        listening: Listening | None = None,
        access_log: AccessLog | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self._table = table
        counting = statistics or Statistics(None)
        services = Services(find, retrieve, describe, ingest, worklist, performed, measure, counting, backends)
        self._access_log = access_log
        accesses = Accesses(access_log, proxies(table.trusted_proxies)) if access_log is not None else None
        self._door = Door(table, tenant, services, accesses)
        self._silent: dict[asyncio.Protocol, float] = {}
        self._http: web.Server | None = None
        self._listening = listening or Listening("server", table.host, table.port, reuse_port=table.reuse_port)

    @property
    def address(self) -> str:
        """Where the door is, as a URL; the port is the real one once entered."""
        return self._listening.address

    async def __aenter__(self) -> Self:
        self._http = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=self._table.limits.idle_s,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BUFFER,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_FIELD,
        )
        await self._listening.serve(self._protocol)
        if self._access_log is not None:
            await self._access_log.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        self._listening.close()
        self._http.pre_shutdown()  # hangs up on connections that wait for a next request
        await self._http.shutdown(self._table.limits.drain_s)
        if self._access_log is not None:
            await self._access_log.__aexit__(kind, error, trace)

    async def run(self) -> None:
        """Serve until cancelled, and hang up on whoever connects and asks nothing."""
        while True:
            await asyncio.sleep(min(self._table.limits.idle_s, 10.0))
            self.hang_up(time.monotonic() - self._table.limits.idle_s)

    def hang_up(self, before: float) -> None:
        """Close the connections made before that moment (of the monotonic clock) whose first request has not come."""
        for protocol, since in list(self._silent.items()):
            transport = getattr(protocol, "transport", None)
            if transport is None:
                del self._silent[protocol]
            elif since < before:
                del self._silent[protocol]
                transport.abort()
                _LOG.warning("connection.cut", reason="no request came")

    def _protocol(self) -> asyncio.Protocol:
        assert self._http is not None
        protocol: asyncio.Protocol = self._http()
        self._silent[protocol] = time.monotonic()
        return protocol

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._silent.pop(request.protocol, None)
        return await self._door.handle(request)
