"""Compare the index with the warehouse: what is indexed was received once, so there must be a row that tells of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from dicomnode.model.instance import received_ms
from dicomnode.model.query import Location
from dicomnode.ports.database import Database
from dicomnode.ports.warehouse import Warehouse


class Account:
    """Find what the warehouse was never told of. What was received before `since_ms` it may have forgotten."""

    def __init__(self, database: Database, warehouse: Warehouse, since_ms: int = 0) -> None:
        self._database = database
        self._warehouse = warehouse
        self._since_ms = since_ms

    async def unrecorded(self, told: Callable[[], object] = lambda: None) -> AsyncIterator[Location]:
        """Yield each indexed object whose key is in no row of `dicom_object_meta`, in the order of keys.

        Both sides are walked once, side by side, and a few keys are held at a time. `told` is called for each object.
        """
        rows = self._warehouse.keys()
        row = await anext(rows, None)
        async for location in self._database.keys():
            told()
            while row is not None and row < location.key:
                row = await anext(rows, None)
            if row != location.key and self._is_expected(location.key):
                yield location

    def _is_expected(self, key: str) -> bool:
        received = received_ms(key)
        return received is None or received >= self._since_ms
