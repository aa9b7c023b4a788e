"""The rows of patients, studies and series that instances hang on: found or made, and kept up to date.

What the last batches touched is remembered with what was already merged into it, so that the next instance of a series
costs two look-ups. Everything remembered is dropped when a transaction fails or rows are removed.
"""

from __future__ import annotations

import sqlite3

from dicomnode.model.attributes import Level
from dicomnode.model.entry import Entry, Policy
from dicomnode.model.merge import COLUMNS, Facts, facts, merged, patient_identity
from dicomnode_sqlite.tables import (
    PATIENT,
    SERIES,
    STUDY,
    insert,
    patient_row,
    read_facts,
    series_row,
    study_row,
    update,
)

_MOST = 5_000
_MOST_MERGED = 100

_patient = ",".join(COLUMNS[Level.PATIENT])
_study = ",".join(COLUMNS[Level.STUDY])
_series = ",".join(COLUMNS[Level.SERIES])
_FIND_PATIENT = f"SELECT id, attributes, {_patient} FROM patient WHERE tenant = ? AND identity = ?"  # noqa: S608
_FIND_STUDY = (
    "SELECT s.id, p.id, p.identity, s.patient_attributes, s.attributes, "  # noqa: S608
    + ",".join(f"s.{column}" for column in (*COLUMNS[Level.PATIENT], *COLUMNS[Level.STUDY]))
    + " FROM study AS s JOIN patient AS p ON p.id = s.patient WHERE s.tenant = ? AND s.StudyInstanceUID = ?"
)
_FIND_SERIES = f"SELECT id, attributes, {_series} FROM series WHERE study = ? AND SeriesInstanceUID = ?"  # noqa: S608


class PatientRow:
    """A patient; `version` rises with every change."""

    __slots__ = ("facts", "id", "identity", "version")

    def __init__(self, number: int, identity: str, told: Facts) -> None:
        self.id, self.identity, self.facts, self.version = number, identity, told, 0


class SeriesRow:
    """A series; `merged` holds the attributes that change nothing any more."""

    __slots__ = ("facts", "id", "merged", "study")

    def __init__(self, number: int, study: StudyRow, told: Facts) -> None:
        self.id, self.study, self.facts = number, study, told
        self.merged: set[tuple[Policy, str]] = set()


class StudyRow:
    """A study with the patient it came with; `merged` tells at which version of the patient's row it was so."""

    __slots__ = ("facts", "id", "merged", "own_patient", "patient", "series", "tenant")

    def __init__(self, number: int, tenant: str, patient: PatientRow, own: tuple[Facts, Facts]) -> None:
        self.id, self.tenant, self.patient = number, tenant, patient
        self.own_patient, self.facts = own
        self.series: dict[str, SeriesRow] = {}
        self.merged: dict[tuple[Policy, str, str], int] = {}


class Known:
    """Finds and makes rows within the caller's transaction. `left` are patients that may have lost their last study."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._patients: dict[tuple[str, str], PatientRow] = {}
        self._studies: dict[tuple[str, str], StudyRow] = {}
        self._count = 0
        self.left: set[int] = set()

    def forget(self) -> None:
        """Look everything up anew."""
        self._patients.clear()
        self._studies.clear()
        self.left.clear()
        self._count = 0

    def trim(self) -> None:
        """Keep what is remembered within bounds; between batches."""
        if self._count > _MOST:
            self.forget()

    def series(self, entry: Entry, policy: Policy) -> SeriesRow:
        """Return the series of `entry`, made or brought up to date with all above it."""
        study = self._study(entry, policy)
        row = study.series.get(entry.series_uid) or self._find_series(study, entry.series_uid)
        if row is None:
            told = facts(entry, Level.SERIES)
            row = SeriesRow(insert(self._connection, "series", SERIES, [series_row(study.id, told)]), study, told)
        elif (policy, entry.fragments.series) not in row.merged:
            self._merge_series(row, facts(entry, Level.SERIES), policy)
        if len(row.merged) >= _MOST_MERGED:
            row.merged.clear()
        row.merged.add((policy, entry.fragments.series))
        self._remember_series(study, entry.series_uid, row)
        return row

    def _remember_series(self, study: StudyRow, uid: str, row: SeriesRow) -> None:
        if uid not in study.series:
            study.series[uid] = row
            self._count += 1

    def _find_series(self, study: StudyRow, uid: str) -> SeriesRow | None:
        found = self._connection.execute(_FIND_SERIES, (study.id, uid)).fetchone()
        if found is None:
            return None
        number, attributes, *values = found
        return SeriesRow(number, study, read_facts(Level.SERIES, values, attributes))

    def _merge_series(self, row: SeriesRow, told: Facts, policy: Policy) -> None:
        both = merged(row.facts, told, policy)
        if both is not row.facts:
            row.merged.clear()
            row.facts = both
            update(self._connection, "series", SERIES, series_row(row.study.id, both), row.id)

    def _study(self, entry: Entry, policy: Policy) -> StudyRow:
        name = (entry.tenant, entry.study_uid)
        row = self._studies.get(name) or self._find_study(entry)
        said = (policy, entry.fragments.patient, entry.fragments.study)
        if row is None:
            row = self._make_study(entry, policy)
        elif row.merged.get(said) != row.patient.version:
            self._merge_study(row, entry, policy)
        if len(row.merged) >= _MOST_MERGED:
            row.merged.clear()
        row.merged[said] = row.patient.version
        if name not in self._studies:
            self._studies[name] = row
            self._count += 1
        return row

    def _find_study(self, entry: Entry) -> StudyRow | None:
        found = self._connection.execute(_FIND_STUDY, (entry.tenant, entry.study_uid)).fetchone()
        if found is None:
            return None
        number, _, identity, patient_attributes, attributes, *values = found
        patient = self._find_patient(entry.tenant, identity)
        assert patient is not None
        split = len(COLUMNS[Level.PATIENT])
        own = (
            read_facts(Level.PATIENT, values[:split], patient_attributes),
            read_facts(Level.STUDY, values[split:], attributes),
        )
        return StudyRow(number, entry.tenant, patient, own)

    def _make_study(self, entry: Entry, policy: Policy) -> StudyRow:
        own = (facts(entry, Level.PATIENT), facts(entry, Level.STUDY))
        patient = self._patient(entry, own[0], policy)
        number = insert(self._connection, "study", STUDY, [study_row(entry.tenant, patient.id, *own)])
        return StudyRow(number, entry.tenant, patient, own)

    def _merge_study(self, row: StudyRow, entry: Entry, policy: Policy) -> None:
        own_patient, study = facts(entry, Level.PATIENT), merged(row.facts, facts(entry, Level.STUDY), policy)
        patient = row.patient
        if policy is Policy.REPLACE or patient.identity == patient_identity(entry):
            patient = self._patient(entry, own_patient, policy)
            own_patient = merged(row.own_patient, own_patient, policy)
        else:  # of another patient: nothing of it goes into this one's row
            own_patient = row.own_patient
        if patient is row.patient and own_patient is row.own_patient and study is row.facts:
            return
        if patient is not row.patient:
            self.left.add(row.patient.id)
        row.patient, row.own_patient, row.facts = patient, own_patient, study
        row.merged.clear()
        update(self._connection, "study", STUDY, study_row(row.tenant, patient.id, own_patient, study), row.id)

    def _patient(self, entry: Entry, told: Facts, policy: Policy) -> PatientRow:
        """Return the patient of `entry`, made or brought up to date."""
        identity = patient_identity(entry)
        row = self._find_patient(entry.tenant, identity)
        if row is None:
            new = patient_row(entry.tenant, identity, told)
            row = PatientRow(insert(self._connection, "patient", PATIENT, [new]), identity, told)
            self._remember_patient(entry.tenant, row)
            return row
        both = merged(row.facts, told, policy)
        if both is not row.facts:
            row.facts = both
            row.version += 1
            update(self._connection, "patient", PATIENT, patient_row(entry.tenant, identity, both), row.id)
        return row

    def _find_patient(self, tenant: str, identity: str) -> PatientRow | None:
        row = self._patients.get((tenant, identity))
        if row is None:
            found = self._connection.execute(_FIND_PATIENT, (tenant, identity)).fetchone()
            if found is None:
                return None
            number, attributes, *values = found
            row = PatientRow(number, identity, read_facts(Level.PATIENT, values, attributes))
            self._remember_patient(tenant, row)
        return row

    def _remember_patient(self, tenant: str, row: PatientRow) -> None:
        self._patients[tenant, row.identity] = row
        self._count += 1
