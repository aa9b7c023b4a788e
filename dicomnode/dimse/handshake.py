"""The TLS port: sockets from their connection until both ends have shaken hands (RFC 8446 4, PS3.15 B.9).

The loops' own TLS servers tell nobody of a socket before that, so that neither its failure could be counted nor its
number bounded; hence an accepting loop of our own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dicomnode import log, metrics
from dicomnode.dimse.protocol import Ending

_log = log.get(__name__)
_FAREWELL_S = 1.0
_BREATHE_S = 0.5  # when the process has no file descriptor left


class Waiting(Protocol):
    """A socket that has not asked for an association, or that is done with one."""

    @property
    def peer_ip(self) -> str:
        """The address at its other end."""

    def turn_away(self) -> None:
        """Close the socket."""


class Threshold(Protocol):
    """Where sockets wait until they are let in."""

    def opened(self, waiting: Waiting) -> None:
        """Learn of a socket."""

    def closed(self, waiting: Waiting) -> None:
        """Forget a socket."""


class SecureServer:
    """Listen, shake hands as `context` says within `most_s` seconds, and hand the connection to what `inside` makes."""

    def __init__(
        self,
        threshold: Threshold,
        context: ssl.SSLContext,
        most_s: float,
        inside: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        self.context = context
        self._threshold = threshold
        self._most_s = most_s
        self._inside = inside
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._shaking: set[_Handshake] = set()

    async def open(self, host: str, port: int, backlog: int, *, reuse_port: bool = False) -> None:
        """Listen on every address of `host`, beside other processes with `reuse_port`. Raises: OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            listening = socket.socket(family, socket.SOCK_STREAM)
            self._sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listening.bind(address)
                listening.listen(backlog)
            except OSError:
                self.close()
                raise
        self._accepting = [loop.create_task(self._accept(listening)) for listening in self._sockets]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that listen."""
        return tuple(self._sockets)

    def close(self) -> None:
        """Listen no more, and hang up on whoever is shaking hands."""
        for task in self._accepting:
            task.cancel()
        for listening in self._sockets:
            listening.close()
        for handshake in tuple(self._shaking):
            handshake.turn_away()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except ConnectionAbortedError:
                continue  # it went before it was accepted
            except OSError as error:
                _log.warning("accept.failed", reason=error.strerror)
                await asyncio.sleep(_BREATHE_S)
                continue
            handshake = _Handshake(connection, str(address[0]))
            self._shaking.add(handshake)
            self._threshold.opened(handshake)
            handshake.task = loop.create_task(self._shake(handshake))

    async def _shake(self, handshake: _Handshake) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._inside,
                handshake.connection,
                ssl=self.context,
                ssl_handshake_timeout=self._most_s,
                ssl_shutdown_timeout=_FAREWELL_S,
            )
        except (OSError, asyncio.CancelledError) as error:
            handshake.close()
            metrics.ASSOCIATIONS.labels(Ending.GARBAGE.value).inc()
            _tell(error, handshake.peer_ip)
        finally:
            self._shaking.discard(handshake)
            self._threshold.closed(handshake)


class _Handshake:
    def __init__(self, connection: socket.socket, peer_ip: str) -> None:
        self.connection = connection
        self.peer_ip = peer_ip
        self.task: asyncio.Task[None] | None = None

    def turn_away(self) -> None:
        """Close the socket; its task ends."""
        self.close()
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        """Have the peer see the end at once, whoever still holds the socket."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _tell(error: BaseException, peer_ip: str) -> None:
    # Whoever shows a certificate is a peer whose operator looks for the reason; all else is noise.
    tell = _log.warning if isinstance(error, ssl.SSLCertVerificationError) else _log.debug
    reason = (error.reason if isinstance(error, ssl.SSLError) else None) or type(error).__name__
    tell("handshake.failed", reason=reason, peer_ip=peer_ip)
