"""Compare storage and index, both ways."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import msgspec

from dicomnode.errors import NotFound
from dicomnode.model.query import Location
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage

_CHUNK = 4 * 1024 * 1024


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
        objects, missing, damaged = 0, [], []
        async for location in self._database.keys():
            objects += 1
            told()
            size = await self._storage.size(location.key)
            if size is None:
                missing.append(location.key)
            elif size != location.size or (digests and await self._digest(location) != location.sha256):
                damaged.append(location.key)
        return Checked(objects, tuple(missing), tuple(damaged), await self._unknown())

    async def _unknown(self) -> tuple[str, ...]:
        """Return the keys of storage that the index lacks; it is asked a study at a time."""
        folder, known, unknown = None, set[str](), []
        async for stored in self._storage.list():
            if (study := stored.key.rsplit("/", 2)[0]) != folder:
                folder = study
                known = {location.key async for location in self._database.keys(f"{study}/")}
            if stored.key not in known:
                unknown.append(stored.key)
        return tuple(unknown)

    async def _digest(self, location: Location) -> str:
        digest, offset = hashlib.sha256(), location.data_set_offset
        try:
            while chunk := await self._storage.read(location.key, offset, _CHUNK):
                await asyncio.to_thread(digest.update, chunk)
                offset += len(chunk)
        except NotFound:
            return ""
        return digest.hexdigest()
