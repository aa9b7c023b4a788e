"""Rows in this process's memory, in plain Python: what every other warehouse must agree with.

For tests and small demonstrations: it looks at every row for every question, and forgets all of them at the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

import msgspec

from dicomnode.model.warehouse import (
    ACCESS,
    OBJECT,
    STATE,
    TABLES,
    AccessGrouping,
    Grouping,
    Holding,
    Kind,
    Span,
    Table,
    Use,
)
from dicomnode.ports.plugin import NoOptions
from dicomnode.ports.warehouse import Warehouse

Row = Mapping[str, Any]

_NEVER = datetime.min.replace(tzinfo=UTC)
_EMPTY = {Kind.TEXT: "", Kind.INTEGER: 0}


class MemoryWarehouse(Warehouse):
    """A dictionary for each table, from a row's key to the row."""

    Options = NoOptions

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        self._tables: dict[str, dict[tuple[Any, ...], Row]] = {table.name: {} for table in TABLES}

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return."""

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Keep `rows`; of those of one key the last of the greatest version; see Warehouse."""
        held = self._tables[table.name]
        for row in rows:
            kept = _kept(table, row)
            key = tuple(kept[name] for name in table.key)
            if key not in held or _version(table, held[key]) <= _version(table, kept):
                held[key] = kept

    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Return what was received, by label; see Warehouse."""
        label = self._label(by)
        groups = _grouped(self._within(OBJECT, span), label)
        found = [_holding(name, rows) for name, rows in groups.items()]
        found.sort(key=lambda holding: holding.label)
        if by is Grouping.DAY:
            found.reverse()
        else:
            found.sort(key=lambda holding: holding.bytes, reverse=True)
        return found[:most]

    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Return who asked, or for what; see Warehouse."""
        groups = _grouped(self._within(ACCESS, span), lambda row: str(row[by.value]))
        found = [_use(name, rows) for name, rows in groups.items()]
        found.sort(key=lambda use: (-use.requests, use.label))
        return found[:most]

    async def counts(self) -> Mapping[str, int]:
        """Return how many rows each table holds; see Warehouse."""
        return {name: len(rows) for name, rows in self._tables.items()}

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the keys of received objects that begin with `prefix`; see Warehouse."""
        for key in sorted({row["file_path"] for row in self._tables[OBJECT.name].values()}):
            if key.startswith(prefix):
                yield key

    def _within(self, table: Table, span: Span) -> Iterator[Row]:
        for row in self._tables[table.name].values():
            if span.tenant in ("", row["tenant_id"]) and _in_days(_day(row[table.when]), span):
                yield row

    def _label(self, by: Grouping) -> Callable[[Row], str]:
        match by:
            case Grouping.DAY:
                return lambda row: _day(row["created_time"])
            case Grouping.MODALITY:
                return self._modality
            case Grouping.AE_TITLE:
                return lambda row: str(row["source_ae"])
            case Grouping.TRANSFER_SYNTAX:
                return lambda row: str(row["transfer_syntax_uid"])

    def _modality(self, row: Row) -> str:
        state = self._tables[STATE.name].get(tuple(row[name] for name in STATE.key))
        return str(state["modality"]) if state else ""


def _kept(table: Table, row: msgspec.Struct) -> Row:
    told = msgspec.to_builtins(row)
    return {column.name: _value(column.kind, told.get(column.name)) for column in table.columns}


def _value(kind: Kind, told: Any) -> Any:
    match kind:
        case Kind.TIME if told:
            moment = datetime.fromisoformat(told).astimezone(UTC)
            return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        case Kind.DATE if told:
            return date.fromisoformat(told)
        case Kind.TIME | Kind.DATE:
            return None
        case _:
            return _EMPTY.get(kind) if told is None else told


def _version(table: Table, row: Row) -> datetime:
    version: datetime | None = row[table.version]
    return version or _NEVER


def _day(moment: datetime | None) -> str:
    return moment.date().isoformat() if moment else ""


def _in_days(day: str, span: Span) -> bool:
    if not day:
        return not (span.since or span.until)
    return span.since <= day and (not span.until or day < span.until)


def _grouped(rows: Iterator[Row], label: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    return groups


def _holding(label: str, rows: Sequence[Row]) -> Holding:
    studies = {(row["tenant_id"], row["study_uid"]) for row in rows}
    return Holding(label, len(studies), len(rows), sum(row["file_size"] for row in rows))


def _use(label: str, rows: Sequence[Row]) -> Use:
    return Use(
        label,
        len(rows),
        sum(row["status"] >= 400 for row in rows),
        sum(row["content_length"] for row in rows),
        sum(row["duration_ms"] or 0.0 for row in rows) / 1000,
    )


_: type[Warehouse] = MemoryWarehouse
