"""The rows of the index's tables, and statements made of their columns: no value ever becomes part of SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

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
SERIES = ("study", "place", *COLUMNS[Level.SERIES], "attributes")
OBJECT = ("key", "transfer_syntax_uid", "size", "data_set_offset", "sha256", "number_of_frames", "received")
INSTANCE = ("tenant", "series", "place", *COLUMNS[Level.INSTANCE], "attributes", *OBJECT)
ASIDE = ("tenant", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", *OBJECT)

_ROWS = 32  # a statement for many rows: each step of a statement gives up the interpreter's lock and must get it back


def insert(connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Insert `rows`; return the id of the last."""
    last = 0
    marks = f"({','.join('?' * len(columns))})"
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        done = connection.execute(
            f"INSERT INTO {table} ({','.join(columns)}) VALUES {','.join([marks] * len(some))}",  # noqa: S608
            [value for row in some for value in row],
        )
        last = done.lastrowid or 0
    return last


def update(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], row: Sequence[object], number: int
) -> None:
    """Have the row with the id `number` hold `row`."""
    sets = ",".join(f"{column}=?" for column in columns)
    connection.execute(f"UPDATE {table} SET {sets} WHERE id = ?", (*row, number))  # noqa: S608


def patient_row(tenant: str, identity: str, patient: Facts) -> tuple[object, ...]:
    """Return the values of PATIENT."""
    return (tenant, identity, *_values(patient, Level.PATIENT), patient.attributes)


def study_row(tenant: str, patient_number: int, patient: Facts, study: Facts) -> tuple[object, ...]:
    """Return the values of STUDY."""
    told = study.columns
    return (
        tenant,
        patient_number,
        study_cursor(told["StudyDate"], told["StudyTime"], told["StudyInstanceUID"]),
        *_values(patient, Level.PATIENT),
        *_values(study, Level.STUDY),
        patient.attributes,
        study.attributes,
    )


def series_row(study: int, series: Facts) -> tuple[object, ...]:
    """Return the values of SERIES."""
    place = numbered(series.columns["SeriesNumber"], series.columns["SeriesInstanceUID"])
    return (study, place, *_values(series, Level.SERIES), series.attributes)


def instance_row(series: int, entry: Entry) -> tuple[object, ...]:
    """Return the values of INSTANCE."""
    told = facts(entry, Level.INSTANCE)
    place = numbered(told.columns["InstanceNumber"], entry.sop_uid)
    return (entry.tenant, series, place, *told.columns.values(), told.attributes, *_object(entry))


def aside_row(entry: Entry) -> tuple[object, ...]:
    """Return the values of ASIDE."""
    return (entry.tenant, entry.study_uid, entry.series_uid, entry.sop_class_uid, entry.sop_uid, *_object(entry))


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
    return [told.columns[keyword] for keyword in COLUMNS[level]]


def read_facts(level: Level, values: Sequence[str], attributes: str) -> Facts:
    """Return what a row says at `level`."""
    return Facts(attributes, dict(zip(COLUMNS[level], values, strict=True)))
