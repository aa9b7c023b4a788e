"""How long a question waits for the index: read your writes, but never hang."""

from __future__ import annotations

import asyncio

from dicomnode import log
from dicomnode.ports.broker import Barrier

_LOG = log.get("catch_up")
_BRIEFLY_S = 0.05


class CatchUp(Barrier):
    """A barrier that lets go after `most_s` seconds, and nearly at once while the index is known to be behind.

    The index is behind when its database is away or full, or after a restart with much to do. What was acknowledged is
    kept all the same; a question is then answered with what is indexed.
    """

    def __init__(self, barrier: Barrier, most_s: float) -> None:
        self._barrier = barrier
        self._most_s = most_s
        self._is_behind = False

    async def settled(self, topic: str, group: str) -> None:
        """Return when the group has caught up, or when it has been waited for long enough."""
        try:
            async with asyncio.timeout(_BRIEFLY_S if self._is_behind else self._most_s):
                await self._barrier.settled(topic, group)
        except TimeoutError:
            if not self._is_behind:
                _LOG.warning("index.behind", topic=topic, waited_s=self._most_s)
            self._is_behind = True
        else:
            self._is_behind = False
