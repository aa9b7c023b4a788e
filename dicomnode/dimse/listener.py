"""The listening socket of the end that serves: who gets a slot, and how all of them end (PS3.8 9.1)."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from contextlib import suppress

from dicomnode import metrics
from dicomnode.config import StoreScpTable
from dicomnode.dimse.associate import Policy
from dicomnode.dimse.items import Associate
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.protocol import UpperLayer
from dicomnode.dimse.responder import Caller, Handlers
from dicomnode.dimse.scp import Acceptor, Admit
from dicomnode.errors import ConfigError

_BACKLOG = 1024


class Listener:
    """Accept associations for `handlers`. `admit` says whose; limits and slots are seen to here."""

    def __init__(self, table: StoreScpTable, admit: Admit, handlers: Handlers) -> None:
        self.policy = Policy.of(table, frozenset(sop_class for _, sop_class in handlers.operations))
        self.limits = table.limits
        self.handlers = handlers
        self._table = table
        self._admit = admit
        self._server: asyncio.Server | None = None
        self._sockets: dict[Acceptor, None] = {}
        self._outside: dict[Acceptor, None] = {}  # oldest first
        self._inside: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    async def open(self) -> None:
        """Listen. Raises: ConfigError, when the address cannot be had."""
        loop = asyncio.get_running_loop()
        table = self._table
        try:
            self._server = await loop.create_server(self._connected, table.host, table.port, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "set another with --set storescp.port=…"
                raise ConfigError("storescp.port", f"{table.port} is in use by another program", hint) from error
            if error.errno == errno.EACCES:
                raise ConfigError("storescp.port", f"{table.port} may not be opened by this user") from error
            raise ConfigError("storescp.host", f"{table.host} is no address of this machine") from error

    @property
    def address(self) -> tuple[str, int]:
        """Where peers find this node."""
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def drain(self) -> None:
        """Listen no more, let the messages at hand be answered for up to `limits.drain_s`, then end what is left."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for acceptor in tuple(self._sockets):
            acceptor.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), self.limits.drain_s)
        await asyncio.sleep(0.01)  # what was written last leaves the process
        left = [acceptor.stop() for acceptor in tuple(self._sockets)]
        await asyncio.gather(*(task for task in left if task is not None), return_exceptions=True)
        await asyncio.sleep(0)

    # What the associations call.

    def admit(self, request: Associate, peer_ip: str) -> Caller:
        """Return who comes in, and count it among those inside. Raises: Rejection."""
        caller = self._admit(request, peer_ip)
        limits = self.limits
        if self._server is None:
            raise Rejection("this node is stopping", 2, 3, 1)
        if self._inside.total() >= limits.associations:
            raise Rejection("more than limits.associations", 2, 3, 2)
        if self._inside[peer_ip] >= limits.associations_per_peer:
            raise Rejection("more than limits.associations_per_peer", 2, 3, 2)
        self._inside[peer_ip] += 1
        self._empty.clear()
        metrics.ASSOCIATIONS_OPEN.inc()
        return caller

    def entered(self, acceptor: Acceptor) -> None:
        """Take a socket off the list of those that have not asked yet."""
        self._outside.pop(acceptor, None)

    def left(self, acceptor: Acceptor) -> None:
        """Count an association out that `admit` counted in."""
        self._inside[acceptor.peer_ip] -= 1
        if not self._inside[acceptor.peer_ip]:
            del self._inside[acceptor.peer_ip]
        if not self._inside:
            self._empty.set()
        metrics.ASSOCIATIONS_OPEN.dec()
        # Its socket may stay open for a while.
        self._outside[acceptor] = None

    def closed(self, acceptor: Acceptor) -> None:
        """Forget a socket."""
        self._sockets.pop(acceptor, None)
        self._outside.pop(acceptor, None)

    def opened(self, acceptor: Acceptor) -> None:
        """Learn of a socket."""
        if len(self._outside) >= self.limits.associations:
            # A peer asks at once; who has been silent longest is the one to go, so that others are served.
            oldest = next(iter(self._outside))
            del self._outside[oldest]
            oldest.turn_away()
        self._sockets[acceptor] = self._outside[acceptor] = None

    def _connected(self) -> UpperLayer:
        return Acceptor(self).layer
