"""Index and warehouse side by side, for the commands that compare and mend them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from dicomnode.backends import Backends
from dicomnode.config import Config
from dicomnode.model.query import Location
from dicomnode.services.account import Account

_LISTED = 20
_DAY_MS = 86_400_000


class Accounted(msgspec.Struct, frozen=True):
    """How many indexed objects the warehouse was never told of, the keys of the first, and what both sides hold."""

    unrecorded: int
    unrecorded_first: tuple[str, ...]
    counts: dict[str, Any]


def unrecorded(config: Config, backends: Backends, told: Callable[[], object]) -> AsyncIterator[Location]:
    """Yield what is indexed and not recorded, except what the warehouse may have forgotten by now."""
    days = config.warehouse.options.get("retain_days", 0)  # it has this name in every warehouse that forgets
    since_ms = time.time_ns() // 1_000_000 - (days - 1) * _DAY_MS if days else 0
    return Account(backends.database, backends.warehouse, since_ms).unrecorded(told)


async def account(config: Config, backends: Backends, told: Callable[[], object]) -> Accounted:
    """Return how index and warehouse differ. Without a warehouse nothing is missing in it."""
    counts: dict[str, Any] = {"database": msgspec.to_builtins(await backends.database.counts())}
    if config.warehouse.use == "off":
        return Accounted(0, (), counts)
    count, first = 0, list[str]()
    async for location in unrecorded(config, backends, told):
        count += 1
        if len(first) < _LISTED:
            first.append(location.key)
    counts["warehouse"] = dict(await backends.warehouse.counts())
    return Accounted(count, tuple(first), counts)
