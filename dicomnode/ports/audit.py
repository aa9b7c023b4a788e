"""What can be asked of any storage and any database through their ports, and more than one service asks."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from dicomnode.errors import NotFound
from dicomnode.model.representation import Representation, folder_of, original_of, sealed
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage, StoredObject

_CHUNK = 4 * 1024 * 1024


async def sha256_of(storage: Storage, key: str, offset: int) -> str:
    """Return the hex digest of what is under `key` from byte `offset` on; empty where nothing is.

    Raises: Unavailable.
    """
    digest = hashlib.sha256()
    try:
        while chunk := await storage.read(key, offset, _CHUNK):
            await asyncio.to_thread(digest.update, chunk)
            offset += len(chunk)
    except NotFound:
        return ""
    return digest.hexdigest()


async def representations(storage: Storage, key: str) -> tuple[Representation, ...]:
    """Return the whole forms, in other transfer syntaxes, of the object under `key`. Raises: Unavailable."""
    return sealed({stored.key: stored.size async for stored in storage.list(folder_of(key))})


def study_of(key: str) -> str:
    """Return what the keys of all objects of a study begin with, without the slash behind it."""
    return (original_of(key) or key).rsplit("/", 2)[0]


async def objects(storage: Storage, database: Database) -> AsyncIterator[tuple[StoredObject, bool]]:
    """Yield each object of `storage` with whether it is indexed. The database is asked a study at a time.

    Forms of an object in other transfer syntaxes are no objects of their own, and left out.
    """
    folder, known = None, set[str]()
    async for stored in storage.list():
        if original_of(stored.key):
            continue
        if (study := study_of(stored.key)) != folder:
            folder = study
            known = {location.key async for location in database.keys(f"{study}/")}
        yield stored, stored.key in known
