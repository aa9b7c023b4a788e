"""The address of a web door: bound once, served by whoever is to answer there, without a refusal in between."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from dicomnode.errors import ConfigError

_BACKLOG = 1024


class Listening:
    """The sockets of a web door, which one server after the other may serve.

    `table` is where the configuration names `host` and `port`. With `reuse_port` other processes may serve them too.
    """

    def __init__(self, table: str, host: str, port: int, *, reuse_port: bool = False) -> None:
        self.reuse_port = reuse_port
        self._table = table
        self._host = host
        self._port = port
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._protocol: Callable[[], asyncio.BaseProtocol] = asyncio.Protocol

    @property
    def address(self) -> str:
        """Where the door is, as a URL; the port is the real one once bound."""
        port = self._sockets[0].getsockname()[1] if self._sockets else self._port
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    async def bind(self) -> None:
        """Have the address, on every interface that `host` means; nobody can connect before `serve`. Idempotent.

        Raises: ConfigError.
        """
        if self._sockets:
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                self._bind(family, address)
        except OSError as error:
            self.close()
            raise self._unbindable(error) from error

    def _bind(self, family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> None:
        try:
            bound = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # no IPv6 here
            return
        self._sockets.append(bound)
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)

    async def serve(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Have whoever connects from now on meet a `protocol`; those who are connected stay with theirs.

        Raises: ConfigError.
        """
        await self.bind()
        self._protocol = protocol
        if self._servers:
            return
        loop = asyncio.get_running_loop()
        try:
            for bound in self._sockets:
                self._servers.append(await loop.create_server(self._meet, sock=bound, backlog=_BACKLOG))
        except OSError as error:  # somebody else has listened since
            self.close()
            raise self._unbindable(error) from error

    def _meet(self) -> asyncio.BaseProtocol:
        return self._protocol()

    def close(self) -> None:
        """Let the address go; those who are connected stay."""
        for server in self._servers:
            server.close()
        for bound in self._sockets[len(self._servers) :]:
            bound.close()
        self._servers.clear()
        self._sockets.clear()

    def _unbindable(self, error: OSError) -> ConfigError:
        table, port = self._table, self._port
        if error.errno == errno.EADDRINUSE:
            hint = f"set {table}.port to a free one, or 0 for any"
            if table == "server":
                hint += "; or server.reuse_port = true in every process that serves it"
            return ConfigError(f"{table}.port", f"{port} is in use", hint)
        if error.errno == errno.EACCES:
            return ConfigError(f"{table}.port", f"{port} may not be bound by this user", "use a port above 1023")
        return ConfigError(f"{table}.host", f"{self._host} cannot be bound: {error.strerror}")
