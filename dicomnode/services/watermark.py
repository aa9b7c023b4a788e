"""Whether there is room for more, known before an object comes, so that senders are refused early."""

from __future__ import annotations

import asyncio

from dicomnode import log, metrics
from dicomnode.errors import PluginError
from dicomnode.ports.storage import FreeSpace

_log = log.get(__name__)
_EVERY_S = 2.0
_MARGIN = 20  # a twentieth more must be free before it is enough again, so that it does not change all the time
_GAUGES = {
    "storage": (metrics.STORAGE_FREE, metrics.STORAGE_LOW),
    "outbox": (metrics.OUTBOX_FREE, metrics.OUTBOX_LOW),
}
_LOW = {"storage": "storage.low", "outbox": "outbox.low"}
_RECOVERED = {"storage": "storage.recovered", "outbox": "outbox.recovered"}


class Watermark:
    """The free space of a `keeper` beside the `least` that there should be, in bytes; `name` is what the log calls it.

    `low` costs nothing to ask; it is as old as the last `look`, which `watch` takes every two seconds. It is never true
    of a keeper that does not know what is free. With `also` it is true, too, while it is so of that one, which somebody
    else watches.
    """

    def __init__(self, keeper: object, least: int, name: str = "storage", also: Watermark | None = None) -> None:
        self._keeper = keeper if isinstance(keeper, FreeSpace) and least > 0 else None
        self._least = least
        self._name = name
        self._also = also
        self._free_gauge, self._low_gauge = _GAUGES[name]
        self._is_low = False

    @property
    def low(self) -> bool:
        """Whether there is less room than there should be."""
        return self._is_low or (self._also is not None and self._also.low)

    async def watch(self) -> None:
        """Keep `low` true to what is, until cancelled."""
        while self._keeper is not None:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Learn what is free now; a change is logged once. A keeper that does not answer changes nothing."""
        if self._keeper is None:
            return
        try:
            free = await self._keeper.free_bytes()
        except PluginError:
            return
        self._free_gauge.set(free)
        if not self._is_low and free < self._least:
            self._is_low = True
            _log.warning(_LOW[self._name], free_bytes=free, least_bytes=self._least)
        elif self._is_low and free >= self._least + self._least // _MARGIN:
            self._is_low = False
            _log.warning(_RECOVERED[self._name], free_bytes=free, least_bytes=self._least)
        self._low_gauge.set(self._is_low)
