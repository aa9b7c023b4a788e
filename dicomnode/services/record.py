"""Have rows in the warehouse: each key once in a call, its latest version, and nothing that a warehouse cannot hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from dicomnode import metrics
from dicomnode.model.messages import (
    ACCESS_QUEUE,
    IMAGE_QUEUE,
    LOG_QUEUE,
    STATE_QUEUE,
    DicomImageMeta,
    DicomObjectMeta,
    DicomStateMeta,
    WadoAccessLog,
    iso_date,
)
from dicomnode.model.warehouse import ACCESS, IMAGE, OBJECT, STATE, Kind, Table
from dicomnode.ports.warehouse import Warehouse

RECORDED: dict[str, tuple[Table, type[msgspec.Struct]]] = {
    LOG_QUEUE: (OBJECT, DicomObjectMeta),
    STATE_QUEUE: (STATE, DicomStateMeta),
    IMAGE_QUEUE: (IMAGE, DicomImageMeta),
    ACCESS_QUEUE: (ACCESS, WadoAccessLog),
}
"""The topics that rows come from: whose table, and what a message is."""

_OUR_LENGTH = len("2026-01-02T03:04:05.678+00:00")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Reading:
    """How messages become rows of one table; what the table's columns cannot hold is refused here, message by message.

    A warehouse takes a batch whole or not at all: one date that is none would hold up ten thousand rows.
    """

    def __init__(self, table: Table, kind: type[msgspec.Struct]) -> None:
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
        self._version = attrgetter(table.version)
        self._table = table
        self._integers = _of_kind(table, Kind.INTEGER)
        self._dates = _of_kind(table, Kind.DATE)
        self._times = _of_kind(table, Kind.TIME)

    def read(self, body: bytes) -> Any:
        """Return the row of a message. Raises: ValueError, which names no value."""
        row = self._decode(body)
        if not self._version(row) and self._table.when:
            # A process of an earlier release says only when it came.
            row = msgspec.structs.replace(row, **{self._table.version: getattr(row, self._table.when)})
        integers = self._integers(row)
        if max(integers, default=0) >= 2**63 or min(integers, default=0) < -(2**63):
            raise ValueError("an integer is longer than 64 bits")
        if not all(map(_is_date, self._dates(row))):
            raise ValueError("a date is none")
        if not all(map(_is_time, self._times(row))):
            raise ValueError("a time is none of RFC 3339")
        return row


class Record:
    """Record rows in a warehouse."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    async def record(self, table: Table, rows: Sequence[Any]) -> None:
        """Return when `rows` will survive a crash. Idempotent. Raises: Unavailable, Full."""
        latest = _latest(table, rows)
        if latest:
            await self._warehouse.record(table, latest)
            metrics.RECORDED.labels(table.name).inc(len(latest))


def _latest(table: Table, rows: Sequence[Any]) -> Sequence[Any]:
    """Return of rows with one key the one with the greatest version, of equal ones the last.

    Versions are compared as text, as this program writes them; those that others wrote otherwise are left as they are.
    """
    key, version = attrgetter(*table.key), attrgetter(table.version)
    found: dict[Any, Any] = {}
    others = []
    for row in rows:
        if len(version(row)) != _OUR_LENGTH or not version(row).endswith("+00:00"):
            others.append(row)
            continue
        known = found.setdefault(key(row), row)
        if known is not row and version(row) >= version(known):
            found[key(row)] = row
    return [*found.values(), *others]


def _of_kind(table: Table, kind: Kind) -> Callable[[Any], Sequence[Any]]:
    """Return what gives the values of a row's columns of `kind`."""
    names = [column.name for column in table.columns if column.kind is kind]
    match names:
        case []:
            return lambda row: ()
        case [name]:
            return lambda row: (getattr(row, name),)
    return attrgetter(*names)


@lru_cache(4096)
def _is_date(text: str | None) -> bool:
    return text is None or (len(text) == 10 and iso_date(text.replace("-", "")) == text)


@lru_cache(4096)  # what comes together was received at the same few moments
def _is_time(text: str) -> bool:
    return _TIME.fullmatch(text) is not None and _is_date(text[:10])
