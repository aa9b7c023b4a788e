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
    PDU = "pdu_s"


class Standing(NamedTuple):
    """Where an association is. `step` changes when its deadline starts anew, `reads` when something came.

    `reads` is -1 where the peer is not expected to send. `pdu` is the number of the PDU that is arriving, -1 for none.
    """

    phase: Phase
    step: int
    reads: int
    pdu: int = -1


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
        self._most = {phase: float(getattr(limits, phase.value)) for phase in Phase}
        self._pace = min(1.0, *(most / 4 for most in self._most.values()))
        self._standing = standing
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._last = Standing(Phase.ARTIM, 0, 0)
        self._since = self._quiet_since = self._pdu_since = 0.0

    def start(self) -> None:
        """Begin with the ARTIM deadline."""
        self._since = self._quiet_since = self._pdu_since = self._loop.time()
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
        if standing.pdu != self._last.pdu or standing.pdu == -1:
            self._pdu_since = now
        self._last = standing
        if (late := self._late(standing, now)) is not None:
            self._since = self._quiet_since = self._pdu_since = now
            self._expired(late)

    def _late(self, standing: Standing, now: float) -> Phase | None:
        most = self._most
        if now - self._since >= most[standing.phase]:
            return standing.phase
        if standing.phase is not Phase.ARTIM and now - self._pdu_since >= most[Phase.PDU]:
            return Phase.PDU
        if standing.phase is Phase.MESSAGE and now - self._quiet_since >= most[Phase.IDLE]:
            return Phase.IDLE
        return None
