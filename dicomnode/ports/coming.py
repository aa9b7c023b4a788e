"""Backends that a process does not wait for when it starts: until they are there, whoever calls is told Unavailable."""

from __future__ import annotations

from abc import ABC
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Self

import msgspec

from dicomnode.model.warehouse import AccessGrouping, Grouping, Holding, Span, Table, Use
from dicomnode.ports.broker import Broker, Lag, Message, Remote, Subscription
from dicomnode.ports.warehouse import Warehouse


class Coming(ABC):  # noqa: B024 -- it says what it is
    """A backend that work goes on without."""


class ComingBroker(Broker, Remote, Coming):
    """A broker that `give` returns as soon as it is there; it raises Unavailable before. Who gave it closes it."""

    def __init__(self, give: Callable[[], Broker]) -> None:
        self._give = give

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return when the broker answers. Raises: Unavailable, Full."""
        await self._give().ping()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish; see Broker."""
        await self._give().publish(messages)

    async def subscribe(self, topic: str, group: str) -> Subscription:
        """Subscribe; see Broker. Raises: Unavailable."""
        return await self._give().subscribe(topic, group)

    async def lag(self, topic: str, group: str) -> Lag:
        """Return how far `group` is behind on `topic`. Raises: Unavailable."""
        return await self._give().lag(topic, group)


class ComingWarehouse(Warehouse, Coming):
    """A warehouse that `give` returns as soon as it is there; it raises Unavailable before. Who gave it closes it."""

    def __init__(self, give: Callable[[], Warehouse]) -> None:
        self._give = give

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return when the warehouse answers. Raises: Unavailable, Full."""
        await self._give().ping()

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Record; see Warehouse."""
        await self._give().record(table, rows)

    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Return what was received; see Warehouse."""
        return await self._give().holdings(by, span, most)

    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Return who asked; see Warehouse."""
        return await self._give().accesses(by, span, most)

    async def counts(self) -> Mapping[str, int]:
        """Return how many rows there are; see Warehouse."""
        return await self._give().counts()

    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the keys of objects; see Warehouse."""
        return self._give().keys(prefix)


_: tuple[type[Broker], type[Warehouse]] = ComingBroker, ComingWarehouse
