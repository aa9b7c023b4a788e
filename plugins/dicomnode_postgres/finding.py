"""A query becomes one statement, and its rows become answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_KEYWORD, Level
from dicomnode.model.cursor import dates, joined, parted
from dicomnode.model.query import Found, Match, OneOf, Query, Range
from dicomnode_postgres.matching import Parameters, condition
from dicomnode_postgres.tables import clean

_TABLE = {Level.PATIENT: "patient", Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
_SERIES_OF = "JOIN series ON series.tenant = study.tenant AND series.study = study.id"
_INSTANCES_OF = "JOIN instance ON instance.tenant = series.tenant AND instance.series = series.id"
JOINED = f"study {_SERIES_OF} {_INSTANCES_OF}"
_FROM = {
    Level.PATIENT: "patient",
    Level.STUDY: "study",
    Level.SERIES: f"study {_SERIES_OF}",
    Level.INSTANCE: JOINED,
}
_ORDER = {
    Level.PATIENT: ("patient.identity",),
    Level.STUDY: ("study.cursor",),
    Level.SERIES: ("study.cursor", "series.place"),
    Level.INSTANCE: ("study.cursor", "series.place", "instance.place"),
}
_OF_PATIENT = "FROM study WHERE study.tenant = patient.tenant AND study.patient = patient.id"
_COUNTED = (
    f"patient.attributes, (SELECT count(*) {_OF_PATIENT}),"
    f" (SELECT coalesce(sum(series_count), 0)::bigint {_OF_PATIENT}),"
    f" (SELECT coalesce(sum(instance_count), 0)::bigint {_OF_PATIENT})"
)
_WHOLE = (
    "study.patient_attributes, study.attributes, series.attributes, instance.attributes, instance.transfer_syntax_uid"
)
_WANTED = {
    Level.PATIENT: _COUNTED,
    Level.STUDY: "patient_attributes, attributes, modalities, sop_classes, series_count, instance_count",
    Level.SERIES: "study.patient_attributes, study.attributes, series.attributes, series.instance_count",
    Level.INSTANCE: _WHOLE,
}
_MODALITY = "EXISTS (SELECT 1 FROM series AS s WHERE s.tenant = study.tenant AND s.study = study.id AND {})"
_SOP_CLASS = (
    "EXISTS (SELECT 1 FROM series AS s JOIN content AS c ON c.tenant = s.tenant AND c.series = s.id"
    " WHERE s.tenant = study.tenant AND s.study = study.id AND {})"
)
_IN_STUDY = {"ModalitiesInStudy": ("s.Modality", _MODALITY), "SOPClassesInStudy": ("c.SOPClassUID", _SOP_CLASS)}


def statement(query: Query) -> tuple[str, list[object]]:
    """Return the SQL of `query` and its parameters. Raises: BadRequest."""
    level = query.level
    parameters = Parameters()
    table = "patient" if level is Level.PATIENT else "study"
    conditions = [f"{table}.tenant = {parameters.mark(clean(query.tenant))}"]
    conditions += [_condition(level, keyword, match, parameters) for keyword, match in query.matches.items()]
    if query.after:
        conditions.append(_behind(level, query.after, parameters))
    order = ", ".join(_ORDER[level])
    limit, offset = parameters.mark(max(query.limit, 0), "bigint"), parameters.mark(max(query.offset, 0), "bigint")
    text = (
        f"SELECT {order}, {_WANTED[level]} FROM {_FROM[level]} WHERE {' AND '.join(conditions)}"  # noqa: S608
        f" ORDER BY {order} LIMIT {limit} OFFSET {offset}"
    )
    return text, parameters


def _condition(level: Level, keyword: str, match: Match, parameters: Parameters) -> str:
    if keyword in _IN_STUDY and level is not Level.PATIENT:
        column, exists = _IN_STUDY[keyword]
        return exists.format(condition(column, match, parameters))
    attribute = BY_KEYWORD.get(keyword)
    if attribute is None or attribute.form is None or attribute.level > level:
        raise BadRequest(f"{keyword} is not searched at this level")
    # The study's own row has the patient it came with: no join, and what is matched is what is returned.
    table = "study" if attribute.level is Level.PATIENT and level > Level.PATIENT else _TABLE[attribute.level]
    text = condition(f"{table}.{keyword}", match, parameters)
    if keyword == "StudyDate" and (span := _span(match)):
        low, high = map(parameters.mark, span)
        return f"({text} AND study.cursor >= {low} AND study.cursor < {high})"
    return text


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


def _behind(level: Level, after: str, parameters: Parameters) -> str:
    after = after.replace("\0", "\ufffd")
    if level is Level.PATIENT:
        return f"patient.identity > {parameters.mark(after)}"
    order = _ORDER[level]
    parts = parted(after, len(order))
    first = f"study.cursor >= {parameters.mark(parts[0])}"
    return f"{first} AND ({', '.join(order)}) > ({', '.join(map(parameters.mark, parts))})"


def _patient(row: Any) -> Found:
    identity, patient, studies, series, instances = row
    return Found(identity, patient, studies=studies, series_count=series, instance_count=instances)


def _study(row: Any) -> Found:
    cursor, patient, study, modalities, sop_classes, series, instances = row
    return Found(
        cursor,
        patient,
        study,
        modalities=tuple(sorted(modalities)),
        sop_classes=tuple(sorted(sop_classes)),
        series_count=series,
        instance_count=instances,
    )


def _series(row: Any) -> Found:
    cursor, place, patient, study, series, instances = row
    return Found(joined(cursor, place), patient, study, series, instance_count=instances)


def _instance(row: Any) -> Found:
    cursor, series_place, place, patient, study, series, instance, transfer_syntax_uid = row
    return Found(
        joined(cursor, series_place, place), patient, study, series, instance, transfer_syntax_uid=transfer_syntax_uid
    )


ANSWER: dict[Level, Callable[[Any], Found]] = {
    Level.PATIENT: _patient,
    Level.STUDY: _study,
    Level.SERIES: _series,
    Level.INSTANCE: _instance,
}
