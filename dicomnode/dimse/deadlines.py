"""How long a peer may take: one coarse timer an association, so that deadlines cost nothing on the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from dicomnode.config import LimitsTable


class Phase(StrEnum):
    """Which deadline runs. ARTIM: before an association stands and after it has ended (PS3.8 9.1.5)."""

    ARTIM = "artim_s"
    IDLE = "idle_s"
    MESSAGE = "message_s"


class Standing(NamedTuple):
    """Where an association is. `step` changes when its deadline starts anew, `reads` when something came.

    `reads` is -1 where the peer is not expected to send.
    """

    phase: Phase
    step: int
    reads: int


class Watch:
    """Look at an association from time to time and tell when one of its deadlines has passed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LimitsTable,
        standing: Callable[[], Standing],
        expired: Callable[[Phase], None],
    ) -> None:
        self._loop = loop
        self._most = {Phase.ARTIM: limits.artim_s, Phase.IDLE: limits.idle_s, Phase.MESSAGE: limits.message_s}
        self._pace = min(1.0, *(most / 4 for most in self._most.values()))
        self._standing = standing
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._last = Standing(Phase.ARTIM, 0, 0)
        self._since = self._quiet_since = 0.0

    def start(self) -> None:
        """Begin with the ARTIM deadline."""
        self._since = self._quiet_since = self._loop.time()
        self._timer = self._loop.call_later(self._pace, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._pace, self._look)
        now, standing = self._loop.time(), self._standing()
        if standing[:2] != self._last[:2]:
            self._since = now
        if standing != self._last or standing.reads == -1:
            self._quiet_since = now
        self._last = standing
        if now - self._since >= self._most[standing.phase]:
            self._since = now
            self._expired(standing.phase)
        elif standing.phase is Phase.MESSAGE and now - self._quiet_since >= self._most[Phase.IDLE]:
            self._quiet_since = now
            self._expired(Phase.IDLE)
