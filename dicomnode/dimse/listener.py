"""The listening sockets of the end that serves: who gets a slot, and how all of them end (PS3.8 9.1)."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from dicomnode import log, metrics
from dicomnode.config import StoreScpTable
from dicomnode.dimse import tls
from dicomnode.dimse.associate import Agree, Policy, agree_on_nothing
from dicomnode.dimse.handshake import SecureServer, Waiting
from dicomnode.dimse.items import Associate
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.protocol import UpperLayer
from dicomnode.dimse.responder import Caller, Handlers
from dicomnode.dimse.scp import Acceptor, Admit, Visitor
from dicomnode.errors import ConfigError

_log = log.get(__name__)
_BACKLOG = 1024
_DAYS_OF_WARNING = 30
_SHARED = "storescp.reuse_port = true in every process that serves it"


class Listener:
    """Accept associations for `handlers`. `admit` says whose; limits and slots are seen to here.

    `agree` answers SOP class extended negotiation.
    """

    def __init__(self, table: StoreScpTable, admit: Admit, handlers: Handlers, agree: Agree = agree_on_nothing) -> None:
        self.policy = Policy.of(table, frozenset(sop_class for _, sop_class in handlers.operations), agree)
        self.limits = table.limits
        self.handlers = handlers
        self._table = table
        self._admit = admit
        self._server: asyncio.Server | None = None
        self._tls_server: SecureServer | None = None
        self._sockets: dict[Acceptor, None] = {}
        self._outside: dict[Waiting, None] = {}  # oldest first
        self._inside: Counter[str] = Counter()
        self._stopping = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def open(self) -> None:
        """Listen. Raises: ConfigError, when an address cannot be had or a certificate cannot be used."""
        table = self._table
        if table.tls.port >= 0:
            server = SecureServer(self, await self._secure(), self.limits.artim_s, self._connected)
            try:
                await server.open(table.host, table.tls.port, _BACKLOG, reuse_port=table.reuse_port)
            except OSError as error:
                raise _unbindable("storescp.tls.port", table.tls.port, table.host, error) from error
            self._tls_server = server
        if table.port >= 0:
            loop = asyncio.get_running_loop()
            try:
                self._server = await loop.create_server(
                    self._connected, table.host, table.port, backlog=_BACKLOG, reuse_port=table.reuse_port or None
                )
            except OSError as error:
                if self._tls_server is not None:
                    self._tls_server.close()
                raise _unbindable("storescp.port", table.port, table.host, error) from error

    async def read_certificates(self) -> None:
        """Read the certificates of the TLS port again; associations that stand go on.

        Raises: ConfigError; then those that were read before stay in use.
        """
        if self._tls_server is not None:
            self._tls_server.context = await self._secure()

    async def _secure(self) -> ssl.SSLContext:
        context = await asyncio.to_thread(tls.server_context, self._table.tls)
        left = await asyncio.to_thread(tls.days_left, self._table.tls.certificate)
        if left is not None and left < _DAYS_OF_WARNING:
            _log.warning("certificate.expires", key="storescp.tls.certificate", days_left=left)
        return context

    @property
    def address(self) -> tuple[str, int]:
        """Where peers find this node: without TLS, if that is possible."""
        server = self._server or self._tls_server
        assert server is not None
        return _address_of(server)

    @property
    def tls_address(self) -> tuple[str, int] | None:
        """Where peers find this node on TLS, None for nowhere."""
        return _address_of(self._tls_server) if self._tls_server is not None else None

    async def drain(self) -> None:
        """Listen no more, let the messages at hand be answered for up to `limits.drain_s`, then end what is left."""
        if self._server is None and self._tls_server is None:
            return
        self._stopping = True
        for server in (self._server, self._tls_server):
            if server is not None:
                server.close()
        self._server = self._tls_server = None
        for acceptor in tuple(self._sockets):
            acceptor.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), self.limits.drain_s)
        await asyncio.sleep(0.01)  # what was written last leaves the process
        left = [acceptor.stop() for acceptor in tuple(self._sockets)]
        await asyncio.gather(*(task for task in left if task is not None), return_exceptions=True)
        await asyncio.sleep(0)

    # What the associations call.

    def admit(self, request: Associate, visitor: Visitor) -> Caller | Coroutine[Any, Any, Caller]:
        """Return who it is that asks, at once or when that is known. Raises: Rejection."""
        return self._admit(request, visitor)

    def enter(self, acceptor: Acceptor) -> None:
        """Count an association among those inside. Raises: Rejection, as there are too many."""
        limits, peer_ip = self.limits, acceptor.peer_ip
        if self._stopping:
            raise Rejection("this node is stopping", 2, 3, 1)
        if self._inside.total() >= limits.associations:
            raise Rejection("more than limits.associations", 2, 3, 2)
        if self._inside[peer_ip] >= limits.associations_per_peer:
            raise Rejection("more than limits.associations_per_peer", 2, 3, 2)
        self._inside[peer_ip] += 1
        self._empty.clear()
        self._outside.pop(acceptor, None)
        metrics.ASSOCIATIONS_OPEN.inc()

    def left(self, acceptor: Acceptor) -> None:
        """Count an association out that `enter` counted in."""
        self._inside[acceptor.peer_ip] -= 1
        if not self._inside[acceptor.peer_ip]:
            del self._inside[acceptor.peer_ip]
        if not self._inside:
            self._empty.set()
        metrics.ASSOCIATIONS_OPEN.dec()
        # Its socket may stay open for a while.
        self._outside[acceptor] = None

    def closed(self, waiting: Waiting) -> None:
        """Forget a socket."""
        if isinstance(waiting, Acceptor):
            self._sockets.pop(waiting, None)
        self._outside.pop(waiting, None)

    def opened(self, waiting: Waiting) -> None:
        """Learn of a socket."""
        if len(self._outside) >= self.limits.half_open:
            # A peer asks at once; of the address with most of them, who has been silent longest is the one to go.
            [(greediest, _)] = Counter(one.peer_ip for one in self._outside).most_common(1)
            oldest = next(one for one in self._outside if one.peer_ip == greediest)
            del self._outside[oldest]
            oldest.turn_away()
        self._outside[waiting] = None
        if isinstance(waiting, Acceptor):
            self._sockets[waiting] = None

    def _connected(self) -> UpperLayer:
        return Acceptor(self).layer


def _address_of(server: asyncio.Server | SecureServer) -> tuple[str, int]:
    name = server.sockets[0].getsockname()
    return str(name[0]), int(name[1])


def _unbindable(path: str, port: int, host: str, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        hint = f"set another with --set {path}=…; or {_SHARED}"
        return ConfigError(path, f"{port} is in use by another program", hint)
    if error.errno == errno.EACCES:
        return ConfigError(path, f"{port} may not be opened by this user")
    return ConfigError("storescp.host", f"{host} is no address of this machine")
