"""Rows as Doris reads them: lines of JSON, with the columns of their table, times in UTC without a zone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from dicomnode.errors import BadRequest
from dicomnode.model.warehouse import Column, Kind, Table

# What stands where the version of a row is not known: a moment before every other.
OLDEST = "0001-01-01 00:00:00.000"

_AT_ONCE = 500  # rows encoded in one go: no other thread runs meanwhile
_EMPTY: dict[Kind, object] = {Kind.TEXT: "", Kind.INTEGER: 0}
_encode = msgspec.json.Encoder().encode_lines


def not_null(table: Table) -> set[str]:
    """Return the columns that cannot be null: those of the key, of the version, and that rows are parted by."""
    return {*table.key, table.version, *((table.when,) if table.when else ())}


class _Shape(msgspec.Struct, frozen=True):
    """What of a row goes into a table: its columns, the times among them, and what stands for columns it has not."""

    names: tuple[str, ...]
    values: attrgetter[Any]
    times: tuple[tuple[str, str | None], ...]
    missing: dict[str, object]


@lru_cache(64)
def _shape(table: Table, kind: type[msgspec.Struct]) -> _Shape:
    there = set(kind.__struct_fields__)
    names = tuple(column.name for column in table.columns if column.name in there)
    times = {column.name: _unknown(table, column) for column in table.columns if column.kind is Kind.TIME}
    return _Shape(
        names,
        # The columns of the key are always there, and they are two at least: `attrgetter` returns a tuple.
        attrgetter(*names),
        tuple((name, unknown) for name, unknown in times.items() if name in there),
        {column.name: _missing(table, column) for column in table.columns if column.name not in there},
    )


def _missing(table: Table, column: Column) -> object:
    return _unknown(table, column) if column.kind is Kind.TIME else _EMPTY.get(column.kind)


def _unknown(table: Table, column: Column) -> str | None:
    return OLDEST if column.name in not_null(table) else None


def moment(text: str) -> str:
    """Return the time `text`, in RFC 3339, as Doris has it, to the millisecond. Raises: BadRequest."""
    if text.endswith("+00:00"):
        bare = text[:-6]
    elif text.endswith("Z"):
        bare = text[:-1]
    else:
        bare = ""
    if bare[10:11] == "T" and len(bare) in (19, 23):
        return f"{bare[:10]} {bare[11:]}"
    try:
        told = datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise BadRequest("doris: a row has a time that is none") from None
    return told.isoformat(" ", "milliseconds")


def lines(table: Table, rows: Sequence[msgspec.Struct]) -> Iterator[bytes]:
    """Yield `rows` as lines of JSON, some hundreds of them at a time. Raises: BadRequest."""
    for start in range(0, len(rows), _AT_ONCE):
        yield _encode([_told(_shape(table, type(row)), row) for row in rows[start : start + _AT_ONCE]])


def _told(shape: _Shape, row: msgspec.Struct) -> dict[str, object]:
    told = dict(zip(shape.names, shape.values(row), strict=True))
    for name, unknown in shape.times:
        value = told[name]
        told[name] = moment(value) if value else unknown
    return told | shape.missing if shape.missing else told
