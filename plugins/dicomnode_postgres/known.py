"""The rows of patients, studies and series that a batch hangs on: looked up and written at once, merged in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dicomnode.model.attributes import Level
from dicomnode.model.entry import Entry, Policy
from dicomnode.model.merge import COLUMNS, Facts, facts, merged, patient_identity
from dicomnode_postgres.tables import (
    PATIENT,
    SERIES,
    STUDY,
    clean,
    insert,
    patient_row,
    read_facts,
    series_row,
    study_row,
    unnested,
    update,
)


def _columns(level: Level, table: str, prefix: str = "") -> str:
    return ", ".join(f"{table}.{column} AS {prefix}{column}" for column in COLUMNS[level])


_ASKED = unnested(("tenant", "uid"))
_PATIENTS = (
    f"SELECT p.id, p.tenant, p.identity, p.attributes, {_columns(Level.PATIENT, 'p')}"  # noqa: S608
    f" FROM {_ASKED} JOIN patient AS p ON p.tenant = d.tenant AND p.identity = d.uid"
)
_STUDIES = (
    "SELECT s.id, s.tenant, s.patient_attributes, s.attributes AS study_attributes, "  # noqa: S608
    f"{_columns(Level.PATIENT, 's', 'own_')}, {_columns(Level.STUDY, 's')}, "
    f"p.id AS patient, p.identity, p.attributes, {_columns(Level.PATIENT, 'p')}"
    f" FROM {_ASKED} JOIN study AS s ON s.tenant = d.tenant AND s.StudyInstanceUID = d.uid"
    " JOIN patient AS p ON p.tenant = s.tenant AND p.id = s.patient"
)
_SERIES = (
    f"SELECT r.id, r.study, r.attributes, {_columns(Level.SERIES, 'r')}"  # noqa: S608
    f" FROM {unnested(('tenant', 'study', 'uid'))}"
    " JOIN series AS r ON r.tenant = d.tenant AND r.study = d.study AND r.SeriesInstanceUID = d.uid"
)
Name = tuple[str, str]


class PatientRow:
    """A patient; `version` rises with every change. The id is 0 until it is written."""

    __slots__ = ("changed", "facts", "id", "name", "version")

    def __init__(self, number: int, name: Name, told: Facts) -> None:
        self.id, self.name, self.facts, self.version, self.changed = number, name, told, 0, not number

    def row(self) -> tuple[object, ...]:
        """Return the values of PATIENT."""
        return patient_row(*self.name, self.facts)


class StudyRow:
    """A study with the patient it came with; `merged` tells at which version of the patient's row it was so."""

    __slots__ = ("changed", "facts", "id", "merged", "name", "own_patient", "patient")

    def __init__(self, number: int, name: Name, patient: PatientRow, own: tuple[Facts, Facts]) -> None:
        self.id, self.name, self.patient, self.changed = number, name, patient, not number
        self.own_patient, self.facts = own
        self.merged: dict[tuple[str, str], int] = {}

    def row(self) -> tuple[object, ...]:
        """Return the values of STUDY; the patient has its id."""
        return study_row(self.name[0], self.patient.id, self.own_patient, self.facts)


class SeriesRow:
    """A series; `merged` holds the attributes that change nothing any more."""

    __slots__ = ("changed", "facts", "id", "merged", "study", "uid")

    def __init__(self, number: int, study: StudyRow, uid: str, told: Facts) -> None:
        self.id, self.study, self.uid, self.facts, self.changed = number, study, uid, told, not number
        self.merged: set[str] = set()

    @property
    def tenant(self) -> str:
        """Return the tenant of its study."""
        return self.study.name[0]

    def row(self) -> tuple[object, ...]:
        """Return the values of SERIES; the study has its id."""
        return series_row(self.tenant, self.study.id, self.facts)


class Known:
    """What a batch found, and what became of it. `left` are patients that may have lost their last study."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._patients: dict[Name, PatientRow] = {}
        self._studies: dict[Name, StudyRow] = {}
        self._series: dict[tuple[str, str, str], SeriesRow] = {}
        self.left: set[PatientRow] = set()

    async def look_up(self, connection: Any, entries: Sequence[Entry]) -> None:
        """Find every row that `entries` speak of, and the patients of their studies."""
        for row in await connection.fetch(_PATIENTS, *_names((e.tenant, patient_identity(e)) for e in entries)):
            self._patient_of(row, row["id"])
        for row in await connection.fetch(_STUDIES, *_names((e.tenant, e.study_uid) for e in entries)):
            own = (
                read_facts(Level.PATIENT, row, "own_", "patient_attributes"),
                read_facts(Level.STUDY, row, "", "study_attributes"),
            )
            name = (row["tenant"], row["studyinstanceuid"])
            self._studies[name] = StudyRow(row["id"], name, self._patient_of(row, row["patient"]), own)
        await self._look_up_series(connection, entries)

    def _patient_of(self, row: Any, number: int) -> PatientRow:
        name = (row["tenant"], row["identity"])
        return self._patients.setdefault(name, PatientRow(number, name, read_facts(Level.PATIENT, row)))

    async def _look_up_series(self, connection: Any, entries: Sequence[Entry]) -> None:
        by_id = {study.id: study for study in self._studies.values()}
        asked = {
            (study.name[0], study.id, clean(entry.series_uid))
            for entry in entries
            if (study := self._studies.get(_name(entry.tenant, entry.study_uid)))
        }
        if not asked:
            return
        for row in await connection.fetch(_SERIES, *map(list, zip(*sorted(asked), strict=True))):
            study, uid = by_id[row["study"]], row["seriesinstanceuid"]
            self._series[*study.name, uid] = SeriesRow(row["id"], study, uid, read_facts(Level.SERIES, row))

    def patients_of_studies(self) -> Iterable[Name]:
        """Return the names of the patients that the studies found belong to."""
        return (study.patient.name for study in self._studies.values())

    def series(self, entry: Entry) -> SeriesRow:
        """Return the series of `entry`, made or brought up to date with all above it."""
        study = self._study(entry)
        name = (*study.name, clean(entry.series_uid))
        row = self._series.get(name)
        if row is None:
            row = self._series[name] = SeriesRow(0, study, name[2], facts(entry, Level.SERIES))
        elif entry.fragments.series not in row.merged:
            both = merged(row.facts, facts(entry, Level.SERIES), self._policy)
            if both is not row.facts:
                row.merged.clear()
                row.facts, row.changed = both, True
        row.merged.add(entry.fragments.series)
        return row

    def _study(self, entry: Entry) -> StudyRow:
        name = _name(entry.tenant, entry.study_uid)
        row = self._studies.get(name)
        said = (entry.fragments.patient, entry.fragments.study)
        if row is None:
            own = (facts(entry, Level.PATIENT), facts(entry, Level.STUDY))
            row = self._studies[name] = StudyRow(0, name, self._patient(entry, own[0]), own)
        elif row.merged.get(said) != row.patient.version:
            self._merge_study(row, entry)
        row.merged[said] = row.patient.version
        return row

    def _merge_study(self, row: StudyRow, entry: Entry) -> None:
        own_patient, study = facts(entry, Level.PATIENT), merged(row.facts, facts(entry, Level.STUDY), self._policy)
        patient = row.patient
        if self._policy is Policy.REPLACE or patient.name[1] == clean(patient_identity(entry)):
            patient = self._patient(entry, own_patient)
            own_patient = merged(row.own_patient, own_patient, self._policy)
        else:  # of another patient: nothing of it goes into this one's row
            own_patient = row.own_patient
        if patient is row.patient and own_patient is row.own_patient and study is row.facts:
            return
        if patient is not row.patient:
            self.left.add(row.patient)
        row.patient, row.own_patient, row.facts = patient, own_patient, study
        row.merged.clear()
        row.changed = True

    def _patient(self, entry: Entry, told: Facts) -> PatientRow:
        """Return the patient of `entry`, made or brought up to date."""
        name = _name(entry.tenant, patient_identity(entry))
        row = self._patients.get(name)
        if row is None:
            row = self._patients[name] = PatientRow(0, name, told)
            return row
        both = merged(row.facts, told, self._policy)
        if both is not row.facts:
            row.facts, row.changed = both, True
            row.version += 1
        return row

    async def write(self, connection: Any) -> None:
        """Write what is new or changed, outermost first; everything has its id afterwards."""
        patients = {row.name: row for row in self._patients.values()}
        await _write(connection, ("patient", PATIENT, "id, tenant, identity"), patients)
        await _write(connection, ("study", STUDY, "id, tenant, StudyInstanceUID"), dict(self._studies))
        series = {(row.study.id, row.uid): row for row in self._series.values()}
        await _write(connection, ("series", SERIES, "id, study, SeriesInstanceUID"), series)


async def _write(connection: Any, table: tuple[str, tuple[str, ...], str], rows: dict[Any, Any]) -> None:
    name, columns, returning = table
    changed = [(key, row) for key, row in rows.items() if row.changed]
    new = [row.row() for _, row in changed if not row.id]
    old = [(row.id, *row.row()) for _, row in changed if row.id]
    await update(connection, name, columns, old)
    for number, *key in await insert(connection, name, columns, new, returning):
        rows[tuple(key)].id = number


def _name(tenant: str, uid: str) -> Name:
    return clean(tenant), clean(uid)


def _names(names: Iterable[Name]) -> list[list[str]]:
    """Return `names` as two arrays, each name once."""
    some = sorted({_name(*name) for name in names})
    return [[tenant for tenant, _ in some], [uid for _, uid in some]]
