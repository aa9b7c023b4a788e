"""The rows of the index's tables, and statements for many rows at once: no value ever becomes part of SQL."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dicomnode.model.attributes import Level
from dicomnode.model.cursor import numbered, study_cursor
from dicomnode.model.entry import Entry
from dicomnode.model.merge import COLUMNS, Facts, facts

PATIENT = ("tenant", "identity", *COLUMNS[Level.PATIENT], "attributes")
STUDY = (
    "tenant",
    "patient",
    "cursor",
    *COLUMNS[Level.PATIENT],
    *COLUMNS[Level.STUDY],
    "patient_attributes",
    "attributes",
)
SERIES = ("tenant", "study", "place", *COLUMNS[Level.SERIES], "attributes")
OBJECT = ("key", "transfer_syntax_uid", "size", "data_set_offset", "sha256", "number_of_frames", "received")
INSTANCE = ("tenant", "series", "place", *COLUMNS[Level.INSTANCE], "attributes", *OBJECT)
ASIDE = ("tenant", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", *OBJECT)
CONTENT = ("tenant", "series", "SOPClassUID", "instances", "bytes")

_NUMBERS = frozenset(
    {"id", "patient", "study", "series", "size", "data_set_offset", "number_of_frames", "instances", "bytes"}
)
_LONGEST = 400  # characters; a row of an index holds 2,704 bytes, and no value that the standard allows is that long
KEPT = 336  # of what is longer


def clean(text: str) -> str:
    """Return `text` as a column can hold it: without NUL; what is too long for an index ends in its digest."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if len(text) <= _LONGEST:
        return text
    return text[:KEPT] + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def unnested(columns: Sequence[str], first: int = 1) -> str:
    """Return a set of rows with `columns`, made of one array a column, which are parameters from `first` on."""
    kinds = ("bigint" if column in _NUMBERS else "text" for column in columns)
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds, first))
    return f"unnest({arrays}) AS d ({', '.join(columns)})"


@lru_cache
def _insert(table: str, columns: tuple[str, ...], returning: str) -> str:
    names = ", ".join(columns)
    text = f"INSERT INTO {table} ({names}) SELECT {names} FROM {unnested(columns)}"  # noqa: S608
    return f"{text} RETURNING {returning}" if returning else text


@lru_cache
def _update(table: str, columns: tuple[str, ...], by: str) -> str:
    sets = ", ".join(f"{column} = d.{column}" for column in columns if column not in ("tenant", by))
    names = columns if by in columns else ("id", *columns)
    return f"UPDATE {table} AS t SET {sets} FROM {unnested(names)} WHERE t.tenant = d.tenant AND t.{by} = d.{by}"  # noqa: S608


async def insert(
    connection: Any, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[object]], returning: str = ""
) -> list[Any]:
    """Insert `rows`; return what the statement returns."""
    if not rows:
        return []
    return list(await connection.fetch(_insert(table, columns, returning), *_arrays(rows)))


async def update(
    connection: Any, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[object]], by: str = "id"
) -> None:
    """Have the rows that are known by `by` hold `rows`; an id stands before the columns."""
    if rows:
        await connection.execute(_update(table, columns, by), *_arrays(rows))


def _arrays(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    return [list(values) for values in zip(*rows, strict=True)]


def patient_row(tenant: str, identity: str, patient: Facts) -> tuple[object, ...]:
    """Return the values of PATIENT."""
    return (clean(tenant), clean(identity), *_values(patient, Level.PATIENT), patient.attributes)


def study_row(tenant: str, patient_number: int, patient: Facts, study: Facts) -> tuple[object, ...]:
    """Return the values of STUDY."""
    told = {keyword: clean(text) for keyword, text in study.columns.items()}
    return (
        clean(tenant),
        patient_number,
        study_cursor(told["StudyDate"], told["StudyTime"], told["StudyInstanceUID"]),
        *_values(patient, Level.PATIENT),
        *(told[keyword] for keyword in COLUMNS[Level.STUDY]),
        patient.attributes,
        study.attributes,
    )


def series_row(tenant: str, study: int, series: Facts) -> tuple[object, ...]:
    """Return the values of SERIES."""
    place = numbered(series.columns["SeriesNumber"], clean(series.columns["SeriesInstanceUID"]))
    return (clean(tenant), study, place, *_values(series, Level.SERIES), series.attributes)


def instance_row(series: int, entry: Entry) -> tuple[object, ...]:
    """Return the values of INSTANCE."""
    told = facts(entry, Level.INSTANCE)
    place = numbered(told.columns["InstanceNumber"], clean(entry.sop_uid))
    return (
        clean(entry.tenant),
        series,
        place,
        *_values(told, Level.INSTANCE),
        told.attributes,
        *_object(entry),
    )


def aside_row(entry: Entry) -> tuple[object, ...]:
    """Return the values of ASIDE."""
    uids = (entry.tenant, entry.study_uid, entry.series_uid, entry.sop_class_uid, entry.sop_uid)
    return (*map(clean, uids), *_object(entry))


def _object(entry: Entry) -> tuple[object, ...]:
    return (
        entry.key,
        entry.transfer_syntax_uid,
        entry.size,
        entry.data_set_offset,
        entry.sha256,
        entry.number_of_frames,
        entry.received,
    )


def _values(told: Facts, level: Level) -> list[str]:
    return [clean(told.columns[keyword]) for keyword in COLUMNS[level]]


def read_facts(level: Level, row: Any, prefix: str = "", attributes: str = "attributes") -> Facts:
    """Return what `row` says at `level`, in the columns that begin with `prefix`."""
    return Facts(row[attributes], {keyword: row[f"{prefix}{keyword.lower()}"] for keyword in COLUMNS[level]})
