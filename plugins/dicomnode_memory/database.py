"""The index in this process's memory, in plain Python: what every other database must agree with.

For tests and small demonstrations: it looks at everything for every question.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_KEYWORD, Level
from dicomnode.model.cursor import joined, numbered, study_cursor
from dicomnode.model.entry import Counts, Entry, Fate, Policy
from dicomnode.model.merge import Facts, facts, merged, patient_identity
from dicomnode.model.query import Found, Location, Query
from dicomnode.ports.database import Database
from dicomnode.ports.plugin import NoOptions

Name = TypeVar("Name")


class _Study(msgspec.Struct):
    identity: str
    patient: Facts
    study: Facts


class MemoryDatabase(Database):
    """Dictionaries of what was indexed; the served entry of each instance, and every kept one by its key."""

    Options = NoOptions

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        self._patients: dict[tuple[str, str], Facts] = {}
        self._studies: dict[tuple[str, str], _Study] = {}
        self._series: dict[tuple[str, str, str], Facts] = {}
        self._served: dict[tuple[str, str], Entry] = {}
        self._kept: dict[str, Entry] = {}

    async def __aenter__(self) -> Self:
        return self

    async def ping(self) -> None:
        """Return."""

    async def index(self, entries: Sequence[Entry], policy: Policy) -> Sequence[Fate]:
        """Take in `entries`; return the fate of each; see Database."""
        fates = [self._take(entry, policy) for entry in entries]
        if policy is Policy.REPLACE:
            self._remove_emptied()
        return fates

    def _take(self, entry: Entry, policy: Policy) -> Fate:
        name = (entry.tenant, entry.sop_uid)
        if entry.key in self._kept:
            return Fate.AGAIN
        if any((kept.tenant, kept.sop_uid) == name and _equal(kept, entry) for kept in self._kept.values()):
            return Fate.DUPLICATE
        self._kept[entry.key] = entry
        known = name in self._served
        if known and policy is Policy.KEEP_FIRST:
            return Fate.ASIDE
        self._served[name] = entry
        self._tell(entry, policy)
        return Fate.REPLACED if known else Fate.NEW

    def _tell(self, entry: Entry, policy: Policy) -> None:
        """Have what `entry` says of its patient, study and series known."""
        told, identity = facts(entry, Level.PATIENT), patient_identity(entry)
        name = (entry.tenant, entry.study_uid)
        study = self._studies.get(name)
        if study is None:
            self._studies[name] = _Study(identity, told, facts(entry, Level.STUDY))
        else:
            study.study = merged(study.study, facts(entry, Level.STUDY), policy)
        if study and (study.identity == identity or policy is Policy.REPLACE):
            study.identity, study.patient = identity, merged(study.patient, told, policy)
        if study is None or study.identity == identity:
            _merge(self._patients, (entry.tenant, identity), told, policy)
        _merge(self._series, (*name, entry.series_uid), facts(entry, Level.SERIES), policy)

    def _remove_emptied(self) -> None:
        """Forget the series, studies and patients of which nothing is served any more."""
        entries = self._served.values()
        series = {(entry.tenant, entry.study_uid, entry.series_uid) for entry in entries}
        studies = {(entry.tenant, entry.study_uid) for entry in entries}
        self._series = {name: told for name, told in self._series.items() if name in series}
        self._studies = {name: told for name, told in self._studies.items() if name in studies}
        patients = {(tenant, study.identity) for (tenant, _), study in self._studies.items()}
        self._patients = {name: told for name, told in self._patients.items() if name in patients}

    async def find(self, query: Query) -> Sequence[Found]:
        """Return up to `query.limit` entities, in the order of `Found.cursor`. Raises: BadRequest."""
        _check(query)
        rows = [
            found
            for found, columns, below in self._entities(query.tenant, query.level)
            if found.cursor > query.after and _fits(query, columns, below)
        ]
        rows.sort(key=lambda found: found.cursor)
        return rows[query.offset : query.offset + query.limit]

    def _entities(self, tenant: str, level: Level) -> Iterator[tuple[Found, Mapping[str, str], _Below]]:
        """Yield each entity of `level` with the columns of all its levels, and what its study holds."""
        if level is Level.PATIENT:
            for (of, identity), told in self._patients.items():
                if of == tenant:
                    yield self._patient(tenant, identity, told), told.columns, _Below((), ())
            return
        for (of, uid), study in self._studies.items():
            if of != tenant:
                continue
            below = self._below(tenant, uid)
            cursor = _study_cursor(study.study)
            columns = {**study.patient.columns, **study.study.columns}
            if level is Level.STUDY:
                yield self._study(cursor, study, below), columns, below
            else:
                for found, more in self._in_study(level, Found(cursor, study.patient.attributes), (tenant, uid)):
                    yield found, {**columns, **more}, below

    def _patient(self, tenant: str, identity: str, told: Facts) -> Found:
        studies = [uid for (of, uid), study in self._studies.items() if (of, study.identity) == (tenant, identity)]
        of_them = [self._below(tenant, uid) for uid in studies]
        return Found(
            identity,
            told.attributes,
            studies=len(studies),
            series_count=sum(len(below.series) for below in of_them),
            instance_count=sum(len(below.entries) for below in of_them),
        )

    def _study(self, cursor: str, study: _Study, below: _Below) -> Found:
        return Found(
            cursor,
            study.patient.attributes,
            study.study.attributes,
            modalities=tuple(sorted(below.modalities() - {""})),
            sop_classes=tuple(sorted(below.sop_classes())),
            series_count=len(below.series),
            instance_count=len(below.entries),
        )

    def _in_study(self, level: Level, above: Found, name: tuple[str, str]) -> Iterator[tuple[Found, Mapping[str, str]]]:
        study = self._studies[name].study.attributes
        for (*of, series_uid), told in self._series.items():
            if tuple(of) != name:
                continue
            entries = [entry for entry in self._below(*name).entries if entry.series_uid == series_uid]
            cursor = joined(above.cursor, numbered(told.columns["SeriesNumber"], series_uid))
            found = Found(cursor, above.patient, study, told.attributes, instance_count=len(entries))
            if level is Level.SERIES:
                yield found, told.columns
                continue
            for entry in entries:
                own = facts(entry, Level.INSTANCE)
                place = joined(cursor, numbered(own.columns["InstanceNumber"], entry.sop_uid))
                yield (
                    Found(
                        place,
                        above.patient,
                        study,
                        told.attributes,
                        own.attributes,
                        transfer_syntax_uid=entry.transfer_syntax_uid,
                    ),
                    {**told.columns, **own.columns},
                )

    def _below(self, tenant: str, study_uid: str) -> _Below:
        name = (tenant, study_uid)
        return _Below(
            tuple(told for (*of, _), told in self._series.items() if tuple(of) == name),
            tuple(entry for entry in self._served.values() if (entry.tenant, entry.study_uid) == name),
        )

    async def locate(self, tenant: str, study_uid: str, series_uid: str = "", sop_uid: str = "") -> Sequence[Location]:
        """Return the current object of each instance of the study, series or instance, in order; see Database."""
        if not study_uid and not sop_uid:
            raise BadRequest("a study or an instance is needed")
        found = [
            entry
            for entry in self._served.values()
            if entry.tenant == tenant
            and study_uid in ("", entry.study_uid)
            and series_uid in ("", entry.series_uid)
            and sop_uid in ("", entry.sop_uid)
        ]
        return _locations(sorted(found, key=self._place))

    def _place(self, entry: Entry) -> tuple[str, str]:
        series = self._series[entry.tenant, entry.study_uid, entry.series_uid]
        return (
            numbered(series.columns["SeriesNumber"], entry.series_uid),
            numbered(entry.columns.get("InstanceNumber", ""), entry.sop_uid),
        )

    async def keys(self, prefix: str = "") -> AsyncIterator[Location]:
        """Yield every kept object whose key starts with `prefix`, in the order of keys."""
        for location in _locations(self._kept[key] for key in sorted(self._kept) if key.startswith(prefix)):
            yield location

    async def counts(self) -> Counts:
        """Return how much is known, over all tenants."""
        return Counts(
            len(self._patients),
            len(self._studies),
            len(self._series),
            len(self._served),
            sum(entry.size for entry in self._kept.values()),
        )


class _Below(msgspec.Struct, frozen=True):
    """What a study holds."""

    series: tuple[Facts, ...]
    entries: tuple[Entry, ...]

    def modalities(self) -> set[str]:
        return {told.columns["Modality"] for told in self.series}

    def sop_classes(self) -> set[str]:
        return {entry.sop_class_uid for entry in self.entries}


def _equal(kept: Entry, entry: Entry) -> bool:
    return (kept.sha256, kept.size - kept.data_set_offset) == (entry.sha256, entry.size - entry.data_set_offset)


def _merge(known: dict[Name, Facts], name: Name, told: Facts, policy: Policy) -> None:
    known[name] = merged(known[name], told, policy) if name in known else told


def _study_cursor(study: Facts) -> str:
    told = study.columns
    return study_cursor(told["StudyDate"], told["StudyTime"], told["StudyInstanceUID"])


def _check(query: Query) -> None:
    for keyword in query.matches:
        if keyword in ("ModalitiesInStudy", "SOPClassesInStudy") and query.level is not Level.PATIENT:
            continue
        attribute = BY_KEYWORD.get(keyword)
        if attribute is None or attribute.form is None or attribute.level > query.level:
            raise BadRequest(f"{keyword} is not searched at this level")


def _fits(query: Query, columns: Mapping[str, str], below: _Below) -> bool:
    for keyword, match in query.matches.items():
        if keyword == "ModalitiesInStudy":
            values: Iterable[str] = below.modalities()
        elif keyword == "SOPClassesInStudy":
            values = below.sop_classes()
        else:
            values = (columns[keyword],)
        if not any(match.accepts(value) for value in values):
            return False
    return True


def _locations(entries: Iterable[Entry]) -> list[Location]:
    return [
        Location(
            entry.key,
            entry.study_uid,
            entry.series_uid,
            entry.sop_uid,
            entry.sop_class_uid,
            entry.transfer_syntax_uid,
            entry.size,
            entry.data_set_offset,
            entry.sha256,
            entry.number_of_frames,
        )
        for entry in entries
    ]


_: type[Database] = MemoryDatabase
