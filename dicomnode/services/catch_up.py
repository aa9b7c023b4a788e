"""How long a question waits for the index: read your writes, but never hang."""

from __future__ import annotations

import asyncio

from dicomnode import log
from dicomnode.model.messages import INDEXING_GROUP, STORAGE_QUEUE
from dicomnode.ports.broker import Barrier, Broker

_LOG = log.get("catch_up")
_BRIEFLY_S = 0.05


class CatchUp:
    """Wait for the index, at most `most_s` seconds (None: for ever), and hardly while it is known to be behind.

    The index is behind when its database is away or full, or after a restart with much to do. What was acknowledged is
    kept all the same; a question is then answered with what is indexed. A broker that is no `Barrier`, or None because
    the index is made in another process, cannot tell: then nothing is waited for.
    """

    def __init__(self, broker: Broker | Barrier | None, most_s: float | None) -> None:
        self._barrier = broker if isinstance(broker, Barrier) else None
        self._most_s = most_s
        self._is_behind = False

    async def settled(self) -> None:
        """Return when all that was published before is indexed, or when it has been waited for long enough."""
        if self._barrier is None:
            return
        try:
            async with asyncio.timeout(_BRIEFLY_S if self._is_behind else self._most_s):
                await self._barrier.settled(STORAGE_QUEUE, INDEXING_GROUP)
        except TimeoutError:
            if not self._is_behind:
                _LOG.warning("index.behind", topic=STORAGE_QUEUE, waited_s=self._most_s)
            self._is_behind = True
        else:
            self._is_behind = False
