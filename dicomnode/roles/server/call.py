"""One request on its way through the door: what handlers are given, and the only way in which they answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from dicomnode.config import ServerTable, is_loopback
from dicomnode.errors import BadRequest
from dicomnode.roles.server import at_once
from dicomnode.roles.server.accept import Range, parse_accept
from dicomnode.roles.server.client_address import proxies
from dicomnode.roles.server.readiness import Answering
from dicomnode.services.describe import Describe
from dicomnode.services.find import Find
from dicomnode.services.ingest import Ingest
from dicomnode.services.measure import Measure
from dicomnode.services.performed import PerformedSteps
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.statistics import Statistics
from dicomnode.services.worklist import Worklist

Buffer = bytes | memoryview

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_UID = re.compile(r"[\x21-\x2e\x30-\x7e]{1,128}")


class Services(msgspec.Struct, frozen=True):
    """What the door opens onto. `backends` are pinged by `/readyz`, by the name of their port."""

    find: Find
    retrieve: Retrieve
    describe: Describe
    ingest: Ingest
    worklist: Worklist
    performed: PerformedSteps
    measure: Measure
    statistics: Statistics
    backends: Mapping[str, Answering] = {}


class _Streamed(web.StreamResponse):
    """A response whose head goes out together with the first piece of its body."""

    _send_headers_immediately = False


class Call:
    """One request. `headers` go out with whatever is answered; `sent`: bytes of a body that have gone out already."""

    __slots__ = ("headers", "params", "request", "response", "sent", "services", "table", "template", "tenant")

    def __init__(self, request: web.BaseRequest, services: Services, table: ServerTable, tenant: str) -> None:
        self.request = request
        self.services = services
        self.table = table
        self.tenant = tenant
        self.params: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.template = ""
        self.sent = 0
        self.response: web.StreamResponse | None = None

    def uid(self, name: str) -> str:
        """Return a UID of the path. Raises: BadRequest for what cannot be one, however forgiving one is."""
        uid = self.params.get(name, "")
        if uid and not _UID.fullmatch(uid):
            raise BadRequest(f"the {name} UID of the path is none")
        return uid

    def uids(self) -> tuple[str, str, str, str]:
        """Return tenant, study, series and instance UID; those that the path does not name are empty."""
        return self.tenant, self.uid("study"), self.uid("series"), self.uid("instance")

    def client(self) -> str:
        """Return the client's address, behind trusted proxies too."""
        told = [",".join(self.request.headers.getall(name, ())) for name in ("X-Forwarded-For", "Forwarded")]
        return proxies(self.table.trusted_proxies).client(self.request.remote or "", *told)

    def ranges(self) -> tuple[Range, ...]:
        """Return what the client will take."""
        request = self.request
        accept = request.headers.getall("Accept", ())
        parameter = request.query.get("accept", "") if "accept=" in request.path_qs else ""
        return parse_accept(accept[0] if len(accept) == 1 else ",".join(accept), parameter)

    def base_url(self) -> str:
        """Return the URL of the DICOMweb root as the client sees it: the public one, else by what it asked for."""
        if self.table.public_url:
            return self.table.public_url.rstrip("/") + "/dicomweb"
        host = self.request.headers.get("Host", "")
        if not _HOST.fullmatch(host):
            return "/dicomweb"
        return f"{self.request.scheme}://{host}{self._lost_port(host)}/dicomweb"

    def _lost_port(self, host: str) -> str:
        """Return the port that a Host of this very socket's address left out (the Python dicomweb-client does that)."""
        transport = self.request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        if not local:
            return ""
        names = {local[0], f"[{local[0]}]"} | ({"localhost"} if is_loopback(local[0]) else set())
        if host not in names:
            return ""
        return f":{local[1]}"

    def answer(
        self, body: bytes = b"", content_type: str = "", status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """Return an answer that is at hand as a whole."""
        sent = {**self.headers, **(headers or {})}
        if content_type:
            sent["Content-Type"] = content_type
        return web.Response(body=body or None, status=status, headers=sent)

    async def pieces(self, pieces: Sequence[Buffer], content_type: str) -> web.StreamResponse:
        """Send an answer that is at hand in pieces, none of them copied on its way to the socket."""
        headers = {**self.headers, "Content-Type": content_type}
        if at_once.suits(self.request):
            self.sent = sum(map(len, pieces))
            return await at_once.send(self.request, pieces, headers, self.table.limits.idle_s)
        return web.Response(body=b"".join(pieces), headers=headers)

    async def stream(
        self,
        body: AsyncIterable[bytes | memoryview],
        content_type: str,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Send `body` as it comes; `length` in bytes, where it is known before. A client may not stall for long.

        The status goes out with the first piece, so an error before that can still be told.
        """
        response = _Streamed(headers={**self.headers, **(headers or {}), "Content-Type": content_type})
        if length is not None:
            response.content_length = length
        if self.request.method == "HEAD":
            return response
        pieces = aiter(body)
        piece: Any = await anext(pieces, None)
        await response.prepare(self.request)
        self.response = response
        while piece is not None:
            async with asyncio.timeout(self.table.limits.idle_s):
                await response.write(piece)
            self.sent += len(piece)
            piece = await anext(pieces, None)
        await response.write_eof()
        return response
