"""Whether the storage has room for more, known before an object comes, so that senders are refused early."""

from __future__ import annotations

import asyncio

from dicomnode import log, metrics
from dicomnode.errors import PluginError
from dicomnode.ports.storage import FreeSpace, Storage

_log = log.get(__name__)
_EVERY_S = 2.0
_MARGIN = 20  # a twentieth more must be free before it is enough again, so that it does not change all the time


class Watermark:
    """The free space of a storage beside the `least` that there should be, in bytes.

    `low` costs nothing to ask; it is as old as the last `look`, which `watch` takes every two seconds. It is never true
    of a storage that does not know what is free.
    """

    def __init__(self, storage: Storage, least: int) -> None:
        self._storage = storage if isinstance(storage, FreeSpace) and least > 0 else None
        self._least = least
        self.low = False

    async def watch(self) -> None:
        """Keep `low` true to what is, until cancelled."""
        while self._storage is not None:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Learn what is free now; a change is logged once. A storage that does not answer changes nothing."""
        if self._storage is None:
            return
        try:
            free = await self._storage.free_bytes()
        except PluginError:
            return
        metrics.STORAGE_FREE.set(free)
        if not self.low and free < self._least:
            self.low = True
            _log.warning("storage.low", free_bytes=free, least_bytes=self._least)
        elif self.low and free >= self._least + self._least // _MARGIN:
            self.low = False
            _log.warning("storage.recovered", free_bytes=free, least_bytes=self._least)
        metrics.STORAGE_LOW.set(self.low)
