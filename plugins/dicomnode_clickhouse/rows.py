"""Rows as ClickHouse reads them: lines of JSON, each with the columns of its table and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from dicomnode.model.warehouse import Kind, Table

# What stands where the version of a row is not known: the first moment that a DateTime64 can hold.
OLDEST = "1900-01-01 00:00:00.000"

_AT_ONCE = 500  # rows encoded in one go: no other thread runs meanwhile
_GZIP = 16 + zlib.MAX_WBITS
_encode = msgspec.json.Encoder().encode_lines


class _Shape(msgspec.Struct, frozen=True):
    """What of a row goes into a table: the columns it has, and those that hold OLDEST where nothing is known."""

    names: tuple[str, ...]
    values: attrgetter[Any]
    known: tuple[str, ...]
    unknown: tuple[str, ...]


@lru_cache(64)
def _shape(table: Table, kind: type[msgspec.Struct]) -> _Shape:
    there = set(kind.__struct_fields__)
    names = [column.name for column in table.columns if column.name in there]
    times = [column.name for column in table.columns if column.kind is Kind.TIME]
    # The columns of the key are always there, and they are two at least: `attrgetter` returns a tuple.
    return _Shape(tuple(names), attrgetter(*names), tuple(set(times) & there), tuple(not_null(table) - there))


def not_null(table: Table) -> set[str]:
    """Return the columns of times that cannot be null: ClickHouse orders and parts rows by them."""
    return {name for name in (table.version, table.when) if name}


def lines(table: Table, rows: Sequence[msgspec.Struct]) -> Iterator[bytes]:
    """Yield `rows` as lines of JSON, some hundreds of them at a time."""
    must = not_null(table)
    for start in range(0, len(rows), _AT_ONCE):
        chunk = []
        for row in rows[start : start + _AT_ONCE]:
            shape = _shape(table, type(row))
            told = dict(zip(shape.names, shape.values(row), strict=True))
            for name in shape.known:
                told[name] = told[name] or (OLDEST if name in must else None)
            for name in shape.unknown:
                told[name] = OLDEST
            chunk.append(told)
        yield _encode(chunk)


def packed(table: Table, rows: Sequence[msgspec.Struct]) -> bytes:
    """Return the lines of `rows`, compressed. Takes its time: call it in a thread."""
    press = zlib.compressobj(1, wbits=_GZIP)
    return b"".join([*(press.compress(chunk) for chunk in lines(table, rows)), press.flush()])
