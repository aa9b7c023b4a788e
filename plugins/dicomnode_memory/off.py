"""No cache, no warehouse: nothing is remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec

from dicomnode.model.warehouse import TABLES, AccessGrouping, Grouping, Holding, Span, Table, Use
from dicomnode.ports.cache import Cache
from dicomnode.ports.warehouse import Warehouse


class OffWarehouse(Warehouse):
    """Keeps nothing, for nodes whose figures nobody asks for; it answers that there are none."""

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return."""

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Keep nothing."""

    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Know of nothing."""
        return ()

    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Know of nothing."""
        return ()

    async def counts(self) -> Mapping[str, int]:
        """Know of nothing."""
        return {table.name: 0 for table in TABLES}

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield nothing."""
        nothing: tuple[str, ...] = ()
        for key in nothing:
            yield key


class OffCache(Cache):
    """A cache that forgets at once."""

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return."""

    async def get(self, key: str) -> bytes | None:
        """Return None."""
        return None

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Remember nothing."""

    async def forget(self, key: str) -> None:
        """Remember nothing, as before."""


_: tuple[type[Cache], type[Warehouse]] = OffCache, OffWarehouse
