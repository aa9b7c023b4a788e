"""What answers by HTTP from the first moment of a process on: its health door, and the web door before it is open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from dicomnode.config import HealthTable, ServerTable
from dicomnode.roles.server.access import Access
from dicomnode.roles.server.listening import Listening
from dicomnode.roles.server.probe import Probe, health, waiting
from dicomnode.roles.server.readiness import Answering


async def _nothing() -> None:
    pass


class Entrance:
    """Binds the addresses on entering. `server` is None where there is no web door in this process.

    `backends` are pinged by `/readyz`, by the name of their port; `measured` brings the metrics up to date. Both may
    change while the process starts.
    """

    def __init__(
        self, table: HealthTable, server: ServerTable | None, tenant: str, backends: Mapping[str, Answering]
    ) -> None:
        self.backends = backends
        self.measured: Callable[[], Awaitable[None]] = _nothing
        self.web = Listening("server", server.host, server.port, reuse_port=server.reuse_port) if server else None
        self.health: Probe | None = None
        self._started = False
        self._waiting: Probe | None = None
        self._entered = AsyncExitStack()
        # What comes to an address that is shared is better answered by the others while this process starts.
        if self.web is not None and server is not None and not self.web.reuse_port:
            self._waiting = Probe(self.web, waiting(Access(server, tenant), lambda: self.backends))
        self._address = Listening("health", table.host, table.port) if table.port >= 0 else None
        if self._address is not None:
            self.health = Probe(self._address, health(lambda: self.backends, lambda: self._started, self._measure))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for listening in (self.web, self._address):
                if listening is not None:
                    stack.callback(listening.close)
                    await listening.bind()
            for probe in (self.health, self._waiting):
                if probe is not None:
                    await stack.enter_async_context(probe)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started = False
        for listening in (self.web, self._address):
            if listening is not None:
                listening.close()
        await self._entered.aclose()

    async def _measure(self) -> None:
        await self.measured()

    def started(self) -> None:
        """Tell that every door is open."""
        self._started = True

    async def part(self) -> None:
        """Answer whoever was connected before, and hang up."""
        if self._waiting is not None:
            await self._waiting.close()
