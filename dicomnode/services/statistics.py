"""Count what was received, and what was asked for, by the warehouse."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec

from dicomnode.errors import BadRequest, NotFound
from dicomnode.model.messages import iso_date
from dicomnode.model.warehouse import AccessGrouping, Grouping, Holding, Span, Use
from dicomnode.ports.warehouse import Warehouse

MOST = 10_000
"""Labels that are counted at most, and so also what `limit` may be."""

GROUPINGS: dict[str, Grouping | AccessGrouping] = {each.value: each for each in (*Grouping, *AccessGrouping)}

_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)", re.ASCII)


class Totals(msgspec.Struct, frozen=True):
    """All labels together. A study may stand under several labels, so studies are not added up."""

    objects: int = 0
    bytes: int = 0
    requests: int = 0
    failures: int = 0
    seconds: float = 0.0


class Counted(msgspec.Struct, frozen=True):
    """What was counted: `labels` is how many there are, of which `rows` are the first; `totals` are of all of them."""

    by: str
    since: str
    until: str
    rows: Sequence[Holding] | Sequence[Use]
    labels: int
    totals: Totals


class Statistics:
    """Count by a warehouse; without one there is nothing to count by."""

    def __init__(self, warehouse: Warehouse | None) -> None:
        self._warehouse = warehouse

    async def count(self, by: str, span: Span, limit: int) -> Counted:
        """Return the first `limit` labels. Raises: BadRequest, NotFound (there is no warehouse), Unavailable."""
        if self._warehouse is None:
            raise NotFound("this node counts nothing: it has no warehouse (warehouse.use)")
        grouping = GROUPINGS.get(by)
        if isinstance(grouping, Grouping):
            held = await self._warehouse.holdings(grouping, span, MOST)
            totals = Totals(sum(each.objects for each in held), sum(each.bytes for each in held))
            return Counted(by, span.since, span.until, held[:limit], len(held), totals)
        if grouping is None:
            raise BadRequest(f"by: it is one of {', '.join(GROUPINGS)}")
        used = await self._warehouse.accesses(grouping, span, MOST)
        return Counted(by, span.since, span.until, used[:limit], len(used), _totals(used))

    async def count_all(self, span: Span, limit: int) -> Sequence[Counted]:
        """Return the counts by everything. Raises as `count`."""
        return await asyncio.gather(*(self.count(by, span, limit) for by in GROUPINGS))


def _totals(used: Sequence[Use]) -> Totals:
    return Totals(
        bytes=sum(each.bytes for each in used),
        requests=sum(each.requests for each in used),
        failures=sum(each.failures for each in used),
        seconds=round(sum(each.seconds for each in used), 3),
    )


def span_of(tenant: str, since: str, until: str) -> Span:
    """Return the span between two days, each YYYY-MM-DD, YYYYMMDD, or empty for open. Raises: BadRequest."""
    return Span(tenant, _day("since", since), _day("until", until))


def _day(name: str, text: str) -> str:
    found = _DAY.fullmatch(text)
    day = iso_date("".join(found.groups())) if found else None
    if text and day is None:
        raise BadRequest(f"{name}: a day is written YYYY-MM-DD")
    return day or ""
