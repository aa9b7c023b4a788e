"""A client of the driver to ask things of: made when first needed, and anew when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dicomnode_kafka.faults import AWAY, FORBIDDEN, UNFIT

T = TypeVar("T")
_TRIES, _PAUSE_S = 3, 0.1


class Client:
    """What `make` makes, started. It connects to one server of many, which may be the one that is away."""

    def __init__(self, make: Callable[[], Any], timeout_s: float) -> None:
        self._make = make
        self._timeout_s = timeout_s
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def asked(self, question: Callable[[Any], Awaitable[T]]) -> T:
        """Return the answer to `question`, in `timeout_s`. Raises: as the driver."""
        told: Exception = TimeoutError()
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(_TRIES):
                    try:
                        return await question(await self._opened())
                    except (*FORBIDDEN, *UNFIT):
                        raise
                    except AWAY as error:
                        told = error
                    await self.close()
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError as error:
            raise told from error
        raise told

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                client = self._make()
                try:
                    await client.start()
                except BaseException:
                    await _closed(client)
                    raise
                self._client = client
            return self._client

    async def close(self) -> None:
        """Close the connections; who is still asking is told so."""
        client, self._client = self._client, None
        if client is not None:
            await _closed(client)


async def _closed(client: Any) -> None:
    await (client.stop() if hasattr(client, "stop") else client.close())
