"""Compare storage and index, both ways."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dicomnode.model.query import Location
from dicomnode.ports.audit import objects, sha256_of
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage


class Checked(msgspec.Struct, frozen=True):
    """What the comparison found, each a tuple of storage keys.

    missing: indexed, but not in storage. damaged: of another size or digest than indexed. unknown: in storage, but not
    indexed (`sweep` mends that).
    """

    objects: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Tell whether storage and index agree."""
        return not (self.missing or self.damaged or self.unknown)


class Fsck:
    """Compare storage and index."""

    def __init__(self, storage: Storage, database: Database) -> None:
        self._storage = storage
        self._database = database

    async def run(self, *, digests: bool, told: Callable[[], object] = lambda: None) -> Checked:
        """Return where storage and index differ; with `digests` every data set is read and its SHA-256 compared.

        Changes nothing. `told` is called for each indexed object.
        """
        count, missing, damaged = 0, [], []
        async for location in self._database.keys():
            count += 1
            told()
            size = await self._storage.size(location.key)
            if size is None:
                missing.append(location.key)
            elif size != location.size or (digests and not await self._is_as_received(location)):
                damaged.append(location.key)
        unknown = [stored.key async for stored, is_known in objects(self._storage, self._database) if not is_known]
        return Checked(count, tuple(missing), tuple(damaged), tuple(unknown))

    async def _is_as_received(self, location: Location) -> bool:
        return await sha256_of(self._storage, location.key, location.data_set_offset) == location.sha256
