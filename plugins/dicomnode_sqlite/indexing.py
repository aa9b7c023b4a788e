"""Taking in a batch of receptions: first judged in memory, in order, then written with few statements.

Runs in the one writing thread, in one transaction a batch.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from dicomnode.model.entry import Entry, Fate, Policy
from dicomnode_sqlite.known import Known, SeriesRow
from dicomnode_sqlite.tables import ASIDE, INSTANCE, aside_row, insert, instance_row, update

_json = msgspec.json.Encoder().encode

_KEPT = """
SELECT SOPInstanceUID, sha256, size - data_set_offset FROM instance
    WHERE tenant = ? AND SOPInstanceUID IN (SELECT value FROM json_each(?))
UNION ALL
SELECT SOPInstanceUID, sha256, size - data_set_offset FROM aside
    WHERE tenant = ? AND SOPInstanceUID IN (SELECT value FROM json_each(?))
"""
_KEYS = """
SELECT key FROM instance WHERE key IN (SELECT value FROM json_each(?))
UNION ALL
SELECT key FROM aside WHERE key IN (SELECT value FROM json_each(?))
"""
_SERVED = """
SELECT id, series, SOPClassUID, size FROM instance WHERE tenant = ? AND SOPInstanceUID = ?
"""
_SET_ASIDE = """
INSERT INTO aside (tenant, StudyInstanceUID, SeriesInstanceUID, SOPClassUID, SOPInstanceUID, key, transfer_syntax_uid,
    size, data_set_offset, sha256, number_of_frames, received)
SELECT i.tenant, StudyInstanceUID, SeriesInstanceUID, SOPClassUID, SOPInstanceUID, key, transfer_syntax_uid,
    size, data_set_offset, sha256, number_of_frames, received
FROM instance AS i JOIN series ON series.id = i.series JOIN study ON study.id = series.study WHERE i.id = ?
"""
_COUNT = """
INSERT INTO content (series, SOPClassUID, instances, bytes) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET instances = instances + excluded.instances, bytes = bytes + excluded.bytes
"""
_SUM_SERIES = """
UPDATE series SET instance_count = (SELECT coalesce(sum(instances), 0) FROM content WHERE content.series = series.id)
WHERE id IN (SELECT value FROM json_each(?))
"""
_SUM_STUDIES = """
UPDATE study SET
    series_count = (SELECT count(*) FROM series WHERE series.study = study.id),
    instance_count = (SELECT coalesce(sum(instance_count), 0) FROM series WHERE series.study = study.id),
    modalities = (SELECT json_group_array(DISTINCT Modality) FROM series
        WHERE series.study = study.id AND Modality <> ''),
    sop_classes = (SELECT json_group_array(DISTINCT SOPClassUID) FROM content JOIN series ON series.id = content.series
        WHERE series.study = study.id)
WHERE id IN (SELECT value FROM json_each(?))
"""
_NO_CONTENT = "DELETE FROM content WHERE instances = 0 AND series IN (SELECT value FROM json_each(?))"
_NO_INSTANCES = """
DELETE FROM series WHERE id IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM content WHERE content.series = series.id)
"""
_NO_SERIES = """
DELETE FROM study WHERE id IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM series WHERE series.study = study.id)
RETURNING patient
"""
_NO_STUDIES = """
DELETE FROM patient WHERE id IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM study WHERE study.patient = patient.id)
"""


class Indexer:
    """Takes batches in, one after another."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known = Known(connection)

    def index(self, entries: Sequence[Entry], policy: Policy) -> list[Fate]:
        """Take in `entries` in one transaction; return their fates. Raises: sqlite3.Error: nothing was taken in."""
        self._known.trim()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            batch = _Batch(self._connection, self._known, policy)
            batch.look_up(entries)
            fates = [batch.take(entry) for entry in entries]
            batch.write()
            self._connection.execute("COMMIT")
        except BaseException:
            self._known.forget()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return fates


class _Batch:
    def __init__(self, connection: sqlite3.Connection, known: Known, policy: Policy) -> None:
        self._connection = connection
        self._known = known
        self._policy = policy
        self._keys: set[str] = set()
        self._kept: dict[tuple[str, str], set[tuple[str, int]]] = defaultdict(set)
        self._new: dict[tuple[str, str], tuple[Entry, SeriesRow]] = {}
        self._aside: list[Entry] = []
        self._content: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        self._studies: set[int] = set()
        self._taken_away = False

    def look_up(self, entries: Sequence[Entry]) -> None:
        """See what is kept already of what `entries` speak of."""
        keys = _json([entry.key for entry in entries]).decode()
        self._keys.update(key for (key,) in self._connection.execute(_KEYS, (keys, keys)))
        uids: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            uids[entry.tenant].append(entry.sop_uid)
        for tenant, some in uids.items():
            told = _json(some).decode()
            for uid, sha256, length in self._connection.execute(_KEPT, (tenant, told, tenant, told)):
                self._kept[tenant, uid].add((sha256, length))

    def take(self, entry: Entry) -> Fate:
        """Judge `entry` by what is kept, and have it written with the batch."""
        if entry.key in self._keys:
            return Fate.AGAIN
        name = (entry.tenant, entry.sop_uid)
        kept = self._kept[name]
        digest = (entry.sha256, entry.size - entry.data_set_offset)
        if digest in kept:
            return Fate.DUPLICATE
        self._keys.add(entry.key)
        if not kept:
            fate = Fate.NEW
            self._serve(entry)
        elif self._policy is Policy.KEEP_FIRST:
            fate = Fate.ASIDE
            self._aside.append(entry)
        else:
            fate = Fate.REPLACED
            self._replace(entry)
        kept.add(digest)
        return fate

    def _serve(self, entry: Entry) -> None:
        series = self._known.series(entry, self._policy)
        self._new[entry.tenant, entry.sop_uid] = (entry, series)
        self._add(series, entry)

    def _add(self, series: SeriesRow, entry: Entry) -> None:
        count = self._content[series.id, entry.sop_class_uid]
        count[0] += 1
        count[1] += entry.size
        self._studies.add(series.study.id)

    def _replace(self, entry: Entry) -> None:
        name = (entry.tenant, entry.sop_uid)
        if earlier := self._new.pop(name, None):
            self._aside.append(earlier[0])
            self._take_away(earlier[1].id, earlier[1].study.id, earlier[0].sop_class_uid, earlier[0].size)
            self._serve(entry)
            return
        number, series, sop_class, size = self._connection.execute(_SERVED, name).fetchone()
        study = self._connection.execute("SELECT study FROM series WHERE id = ?", (series,)).fetchone()[0]
        self._connection.execute(_SET_ASIDE, (number,))
        self._take_away(series, study, sop_class, size)
        now = self._known.series(entry, self._policy)
        update(self._connection, "instance", INSTANCE, instance_row(now.id, entry), number)
        self._add(now, entry)

    def _take_away(self, series: int, study: int, sop_class: str, size: int) -> None:
        count = self._content[series, sop_class]
        count[0] -= 1
        count[1] -= size
        self._studies.add(study)
        self._taken_away = True

    def write(self) -> None:
        """Write what was taken, and bring every count up to date."""
        rows = [instance_row(series.id, entry) for entry, series in self._new.values()]
        insert(self._connection, "instance", INSTANCE, rows)
        insert(self._connection, "aside", ASIDE, [aside_row(entry) for entry in self._aside])
        if not self._studies:
            return
        for (series, sop_class), (instances, size) in self._content.items():
            self._connection.execute(_COUNT, (series, sop_class, instances, size))
        touched = self._numbers({series for series, _ in self._content})
        if self._taken_away:
            for statement in (_NO_CONTENT, _NO_INSTANCES):
                self._connection.execute(statement, (touched,))
        self._connection.execute(_SUM_SERIES, (touched,))
        studies = self._numbers(self._studies)
        if self._taken_away or self._known.left:
            self._remove_emptied(studies)
        self._connection.execute(_SUM_STUDIES, (studies,))

    def _remove_emptied(self, studies: str) -> None:
        patients = {patient for (patient,) in self._connection.execute(_NO_SERIES, (studies,)).fetchall()}
        self._connection.execute(_NO_STUDIES, (self._numbers(patients | self._known.left),))
        self._known.forget()  # it may remember what is gone

    @staticmethod
    def _numbers(numbers: Iterable[int]) -> str:
        return _json(list(numbers)).decode()
