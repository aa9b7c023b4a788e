"""Whether the objects that messages tell of are kept as they say, and what is done where a crash came between.

Whoever takes messages from the log that objects were made durable beside must see to this before the messages go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from dicomnode import log, metrics
from dicomnode.errors import PluginError, Unavailable
from dicomnode.model.messages import DicomObjectMeta
from dicomnode.ports.audit import sha256_of
from dicomnode.ports.storage import Deferring, Storage

_LOG = log.get("safekeeping")


class Received(msgspec.Struct, frozen=True):
    """What a message tells of; `suspect`: a crash came between, so the object may not be whole.

    `cargo`: gives the object's bytes, which are durable with the message and perhaps not yet in the storage.
    """

    meta: DicomObjectMeta
    suspect: bool = False
    cargo: Callable[[], Awaitable[bytes | None]] | None = None


class Safekeeping:
    """The objects of a storage, as messages tell of them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._deferring = storage if isinstance(storage, Deferring) else None

    async def keep(self, received: Sequence[Received]) -> Sequence[bool]:
        """Have what came with its bytes durable in the storage; return of each object whether it is whole there.

        Only what is suspect is looked at. What is not whole was never acknowledged to its sender. Idempotent.

        Raises: Unavailable, Full: nothing can be said; what messages hold must not be let go.
        """
        whole = [not item.suspect or await self._is_whole(item) for item in received]
        await self._settle([item for item in received if item.cargo is not None])
        return whole

    async def _settle(self, laden: Sequence[Received]) -> None:
        """Have every object durable in the storage whose bytes so far are so with its message."""
        if not laden:
            return
        try:
            if self._deferring is None:
                raise Unavailable("storage", "it keeps at once, and messages of another one came with bytes")
            await self._deferring.settle([item.meta.file_path for item in laden])
        except PluginError as error:
            # What is in memory is not on the disk, and reading it would not tell.
            _LOG.warning("storage.unsettled", error=str(error), objects=len(laden))
            for item in laden:
                await self._restore(item)

    async def _restore(self, item: Received) -> bool:
        """Put an object anew from the bytes of its message; return whether there were any."""
        cargo = await item.cargo() if item.cargo is not None else None
        if cargo is None:
            return False
        await self._storage.delete([item.meta.file_path])
        await self._storage.put(item.meta.file_path, (cargo,))
        metrics.INDEXED.labels("restored").inc()
        return True

    async def _is_whole(self, item: Received) -> bool:
        """Tell whether the object is kept as the message says; what is not was never acknowledged to its sender."""
        meta = item.meta
        whole = (
            await self._storage.size(meta.file_path) == meta.file_size
            and await sha256_of(self._storage, meta.file_path, meta.data_set_offset) == meta.sha256
        ) or await self._restore(item)
        if not whole:
            _LOG.warning(
                "object.dropped", key=meta.file_path, reason="a crash left it incomplete; it was never acknowledged"
            )
            metrics.INDEXED.labels("incomplete").inc()
        return whole
