"""A TCP proxy before a server, for faults of the network: in a thread of its own, told what to do from any other.

forward   everything goes through (as it starts)
delay     each piece goes through so many seconds later
hang      connections are taken and kept, nothing is read or written; what waits goes on with `forward`
drop      what is sent is taken and thrown away, in silence; connections that lack a piece are reset by `forward`
cut       every connection is reset, and new ones are refused
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends RST
_PATIENCE_S = 10.0


class _Pair:
    """A connection and its other half. `torn`: bytes of it were thrown away."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.far = socket.socket(socket.AF_INET)
        self.torn = False
        for one in (self.near, self.far):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self, *, reset: bool) -> None:
        for one in (self.near, self.far):
            if reset:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            one.close()


class Proxy:
    """Stands before `host`:`port`; clients come to 127.0.0.1 at `port` of this. Every method may be called anywhere."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._pairs: dict[_Pair, asyncio.Task[None]] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._flowing = asyncio.Event()
        self._dropping = False
        self._delay_s = 0.0
        self.port = 0
        self.taken = 0

    @property
    def connections(self) -> int:
        """How many stand now."""
        return len(self._pairs)

    def url(self, url: str) -> str:
        """Return the url of the server as one that leads here."""
        parts = urlsplit(url)
        name, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{name}{at}127.0.0.1:{self.port}"))

    def forward(self) -> None:
        """Let everything through again, to new connections and to those that lost nothing."""
        self._do(self._forward)

    def delay(self, seconds: float) -> None:
        """Let each piece through so much later."""
        self._do(self._forward, seconds)

    def hang(self) -> None:
        """Keep connections, take new ones, and move nothing."""
        self._do(self._hang)

    def drop(self) -> None:
        """Throw away what either side sends."""
        self._do(self._drop)

    def cut(self) -> None:
        """Reset every connection, refuse new ones."""
        self._do(self._cut)

    def open(self) -> None:
        """Begin."""
        self._thread.start()
        self._do(self._forward)

    def close(self) -> None:
        """Be gone."""
        self._do(self._cut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    def _do(self, step: Callable[..., Coroutine[Any, Any, None]], *told: float) -> None:
        asyncio.run_coroutine_threadsafe(step(*told), self._loop).result(_PATIENCE_S)

    # In the thread.

    async def _forward(self, delay_s: float = 0.0) -> None:
        await self._reset([task for pair, task in self._pairs.items() if pair.torn])
        self._dropping, self._delay_s = False, delay_s
        self._flowing.set()
        self._listen()

    async def _hang(self) -> None:
        self._flowing.clear()
        self._listen()

    async def _drop(self) -> None:
        self._dropping = True
        self._flowing.set()
        self._listen()

    async def _cut(self) -> None:
        if self._listener is not None and self._accepting is not None:
            await self._reset([self._accepting])
            self._listener.close()
            self._listener = None
        await self._reset(list(self._pairs.values()))
        for pair in self._pairs:  # of tasks that had not begun
            pair.close(reset=True)
        self._pairs.clear()

    async def _reset(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = self._loop.create_task(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = await self._loop.sock_accept(listener)
            self.taken += 1
            pair = _Pair(near)
            self._pairs[pair] = self._loop.create_task(self._serve(pair))

    async def _serve(self, pair: _Pair) -> None:
        reset = True
        try:
            await self._flowing.wait()
            await self._loop.sock_connect(pair.far, self._server)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(pair, pair.near, pair.far))
                pumps.create_task(self._pump(pair, pair.far, pair.near))
            reset = False
        except* OSError:
            pass
        finally:
            self._pairs.pop(pair, None)
            pair.close(reset=reset)

    async def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        while True:
            await self._flowing.wait()
            piece = await self._loop.sock_recv(source, _PIECE)
            await self._flowing.wait()
            if self._dropping:
                pair.torn = True
                if not piece:
                    return
                continue
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            if not piece:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, piece)


@contextmanager
def before(host: str, port: int) -> Iterator[Proxy]:
    """Have a proxy that forwards to `host`:`port`."""
    proxy = Proxy(host, port)
    proxy.open()
    try:
        yield proxy
    finally:
        proxy.close()
