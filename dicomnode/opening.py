"""A backend on its way: opened, or tried again while it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Generic, TypeVar

from dicomnode import log
from dicomnode.errors import ConfigError, Full, PluginMissing, Unavailable
from dicomnode.ports.plugin import Plugin

_LOG = log.get("opening")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 30.0

P = TypeVar("P", bound=Plugin)


class Opening(Generic[P]):
    """The backend behind `port`. `make` gives a plugin that is not opened; each try is made with one of its own."""

    def __init__(self, port: str, make: Callable[[], P]) -> None:
        self._port = port
        self._make = make
        self._made: P | None = make()
        self._opened: P | None = None
        self._problem = "not opened yet"

    def get(self) -> P:
        """Return the plugin, open. Raises: Unavailable, with what is in the way."""
        if self._opened is None:
            raise Unavailable(self._port, self._problem)
        return self._opened

    async def ping(self) -> None:
        """Return when the backend is open and answers. Raises: Unavailable, Full."""
        await self.get().ping()

    async def try_once(self, stack: AsyncExitStack) -> P:
        """Return the plugin, open; `stack` closes it. Raises: ConfigError, Unavailable, Full."""
        made, self._made = self._made or self._make(), None
        try:
            await made.__aenter__()
        except PluginMissing:
            raise
        except ConfigError as error:
            # The log before the broker is made of a broker's plugin, which calls its options so.
            path = error.path.replace("broker.options", self._port) if self._port == "outbox" else error.path
            raise ConfigError(path, error.problem, error.hint) from error
        stack.push_async_exit(made)
        self._opened = made
        return made

    async def open(self, stack: AsyncExitStack) -> P:
        """Return the plugin once it is open; `stack` closes it. A backend that is away is tried again, for ever.

        Raises: ConfigError.
        """
        wait_s, waited = _FIRST_WAIT_S, False
        while self._opened is None:
            try:
                await self.try_once(stack)
            except (Unavailable, Full) as error:
                self._tell(str(error))
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret
                wait_s, waited = min(2 * wait_s, _LONGEST_WAIT_S), True
        if waited:
            _LOG.warning("backend.opened", port=self._port)
        return self._opened

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            _LOG.warning("backend.waiting", port=self._port, problem=problem)
