"""A query becomes one statement, and its rows become answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_KEYWORD, Level
from dicomnode.model.cursor import dates, joined, parted
from dicomnode.model.query import Found, Match, NamePattern, OneOf, Query, Range, Wildcard
from dicomnode_sqlite.matching import Condition, condition, literal_start

_TABLE = {Level.PATIENT: "patient", Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
_FROM = {
    Level.PATIENT: "patient",
    Level.STUDY: "study",
    Level.SERIES: "study JOIN series ON series.study = study.id",
    Level.INSTANCE: "study JOIN series ON series.study = study.id JOIN instance ON instance.series = series.id",
}
_ORDER = {
    Level.PATIENT: ("patient.identity",),
    Level.STUDY: ("study.cursor",),
    Level.SERIES: ("study.cursor", "series.place"),
    Level.INSTANCE: ("study.cursor", "series.place", "instance.place"),
}
_OF_PATIENT = "FROM study WHERE study.patient = patient.id"
_WANTED = {
    Level.PATIENT: (
        f"patient.attributes, (SELECT count(*) {_OF_PATIENT}),"
        f" (SELECT coalesce(sum(series_count), 0) {_OF_PATIENT}),"
        f" (SELECT coalesce(sum(instance_count), 0) {_OF_PATIENT})"
    ),
    Level.STUDY: "patient_attributes, attributes, modalities, sop_classes, series_count, instance_count",
    Level.SERIES: "study.patient_attributes, study.attributes, series.attributes, series.instance_count",
    Level.INSTANCE: "study.patient_attributes, study.attributes, series.attributes, instance.attributes,"
    " instance.transfer_syntax_uid",
}
_MODALITY = "EXISTS (SELECT 1 FROM series AS s WHERE s.study = study.id AND {})"
_SOP_CLASS = "EXISTS (SELECT 1 FROM series AS s JOIN content AS c ON c.series = s.id WHERE s.study = study.id AND {})"
_INDEXED = frozenset(
    {
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
    }
)
_read_list = msgspec.json.Decoder(list[str]).decode


def statement(query: Query) -> tuple[str, list[object]]:
    """Return the SQL of `query` and its parameters. Raises: BadRequest."""
    level = query.level
    wanted = ",".join(_ORDER[level])
    # Without statistics SQLite rather walks an index in the order of the answer than one that finds a few rows: the
    # plus hides the order from it where a match is likely to leave few.
    plus = "+" if any(_leaves_few(keyword, match) for keyword, match in query.matches.items()) else ""
    order = ",".join(plus + column for column in _ORDER[level])
    conditions = [_tenant(query), *(_condition(level, keyword, match) for keyword, match in query.matches.items())]
    if query.after:
        conditions.extend(_behind(level, query.after))
    where = " AND ".join(text for text, _ in conditions)
    values = [value for _, some in conditions for value in some]
    text = f"SELECT {wanted}, {_WANTED[level]} FROM {_FROM[level]} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608
    return text, [*values, max(query.limit, 0), max(query.offset, 0)]


def _leaves_few(keyword: str, match: Match) -> bool:
    if keyword not in _INDEXED:
        return False
    match match:
        case OneOf(values):
            return "" not in values
        case Wildcard(pattern):
            return literal_start(pattern) != ""
        case NamePattern(patterns, words):
            return not words and all(literal_start(pattern) for pattern in patterns)
        case Range():
            return keyword == "PatientBirthDate"


def _tenant(query: Query) -> Condition:
    table = "patient" if query.level is Level.PATIENT else "study"
    return f"{table}.tenant = ?", [query.tenant]


def _condition(level: Level, keyword: str, match: Match) -> Condition:
    if keyword in ("ModalitiesInStudy", "SOPClassesInStudy") and level is not Level.PATIENT:
        text, values = condition("s.Modality" if keyword[0] == "M" else "c.SOPClassUID", match)
        return (_MODALITY if keyword[0] == "M" else _SOP_CLASS).format(text), values
    attribute = BY_KEYWORD.get(keyword)
    if attribute is None or attribute.form is None or attribute.level > level:
        raise BadRequest(f"{keyword} is not searched at this level")
    # The study's own row has the patient it came with: no join, and what is matched is what is returned.
    table = "study" if attribute.level is Level.PATIENT and level > Level.PATIENT else _TABLE[attribute.level]
    text, values = condition(f"{table}.{keyword}", match)
    if keyword == "StudyDate" and (span := _span(match)):
        return f"{text} AND study.cursor >= ? AND study.cursor < ?", [*values, *span]
    if keyword == "SOPInstanceUID" and isinstance(match, OneOf):  # for the index of (tenant, UID)
        return f"{text} AND instance.tenant = study.tenant", values
    return text, values


def _span(match: Match) -> tuple[str, str] | None:
    """Return where in the order of studies a match of dates lies, so that it is found without a sort."""
    match match:
        case Range(low, high) if _is_date(low or high) and _is_date(high or low):
            return dates(low, high)
        case OneOf((day,)) if _is_date(day):
            return dates(day, day)
    return None


def _is_date(text: str) -> bool:
    return len(text) == 8 and text.isascii() and text.isdigit()


def _behind(level: Level, after: str) -> list[Condition]:
    if level is Level.PATIENT:
        return [("patient.identity > ?", [after])]
    order = _ORDER[level]
    parts = parted(after, len(order))
    marks = ",".join("?" * len(order))
    return [("study.cursor >= ?", [parts[0]]), (f"({','.join(order)}) > ({marks})", list(parts))]


def _patient(row: Sequence[Any]) -> Found:
    identity, patient, studies, series, instances = row
    return Found(identity, patient, studies=studies, series_count=series, instance_count=instances)


def _study(row: Sequence[Any]) -> Found:
    cursor, patient, study, modalities, sop_classes, series, instances = row
    return Found(
        cursor,
        patient,
        study,
        modalities=tuple(sorted(_read_list(modalities))),
        sop_classes=tuple(sorted(_read_list(sop_classes))),
        series_count=series,
        instance_count=instances,
    )


def _series(row: Sequence[Any]) -> Found:
    cursor, place, patient, study, series, instances = row
    return Found(joined(cursor, place), patient, study, series, instance_count=instances)


def _instance(row: Sequence[Any]) -> Found:
    cursor, series_place, place, patient, study, series, instance, transfer_syntax_uid = row
    return Found(
        joined(cursor, series_place, place), patient, study, series, instance, transfer_syntax_uid=transfer_syntax_uid
    )


ANSWER: dict[Level, Callable[[Sequence[Any]], Found]] = {
    Level.PATIENT: _patient,
    Level.STUDY: _study,
    Level.SERIES: _series,
    Level.INSTANCE: _instance,
}
