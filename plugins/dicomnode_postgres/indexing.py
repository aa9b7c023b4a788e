"""Taking in a batch of receptions: looked up with few statements, judged in memory, in order, written with few again.

Other processes do the same at the same time. Each transaction first takes locks (of the database, until it ends) on the
studies and patients it speaks of; where it turns out to touch more, it begins anew with those locks too. Two first
sends of one instance under different studies meet at its unique key, and the later one begins anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

from dicomnode.model.entry import Entry, Fate, Policy
from dicomnode.model.merge import patient_identity
from dicomnode_postgres.connecting import Again
from dicomnode_postgres.known import Known, SeriesRow
from dicomnode_postgres.tables import ASIDE, CONTENT, INSTANCE, aside_row, clean, insert, instance_row, unnested, update

_LOCKS = 0x4449434F  # "DICO": of all advisory locks of the database, ours
_BUCKETS = 1024  # so that a batch of ever so many studies takes no more of the server's table of locks
_LOCK = "SELECT pg_advisory_xact_lock($1, bucket) FROM unnest($2::int[]) AS bucket"
_KEYS = (
    "SELECT key FROM instance WHERE key = ANY($1::text[]) UNION ALL SELECT key FROM aside WHERE key = ANY($1::text[])"
)
_ASKED = unnested(("tenant", "uid"))
_SERVED = f"""
SELECT i.tenant, i.SOPInstanceUID, i.sha256, i.size - i.data_set_offset AS length, i.size, i.SOPClassUID, i.series,
    s.id AS study, s.StudyInstanceUID, p.identity
FROM {_ASKED} JOIN instance AS i ON i.tenant = d.tenant AND i.SOPInstanceUID = d.uid
    JOIN series AS r ON r.tenant = i.tenant AND r.id = i.series
    JOIN study AS s ON s.tenant = r.tenant AND s.id = r.study
    JOIN patient AS p ON p.tenant = s.tenant AND p.id = s.patient
"""  # noqa: S608
_ASIDE = f"""
SELECT a.tenant, a.SOPInstanceUID, a.sha256, a.size - a.data_set_offset AS length
FROM {_ASKED} JOIN aside AS a ON a.tenant = d.tenant AND a.SOPInstanceUID = d.uid
"""  # noqa: S608
_SET_ASIDE = f"""
INSERT INTO aside ({", ".join(ASIDE)})
SELECT i.tenant, s.StudyInstanceUID, r.SeriesInstanceUID, i.SOPClassUID, i.SOPInstanceUID, i.key,
    i.transfer_syntax_uid, i.size, i.data_set_offset, i.sha256, i.number_of_frames, i.received
FROM {_ASKED} JOIN instance AS i ON i.tenant = d.tenant AND i.SOPInstanceUID = d.uid
    JOIN series AS r ON r.tenant = i.tenant AND r.id = i.series
    JOIN study AS s ON s.tenant = r.tenant AND s.id = r.study
"""  # noqa: S608
_COUNT = f"""
INSERT INTO content AS c ({", ".join(CONTENT)}) SELECT {", ".join(CONTENT)} FROM {unnested(CONTENT)}
ON CONFLICT (tenant, series, SOPClassUID)
DO UPDATE SET instances = c.instances + excluded.instances, bytes = c.bytes + excluded.bytes
"""  # noqa: S608
_SUM_SERIES = """
UPDATE series AS r SET instance_count =
    (SELECT coalesce(sum(instances), 0) FROM content AS c WHERE c.tenant = r.tenant AND c.series = r.id)
WHERE r.tenant = ANY($1::text[]) AND r.id = ANY($2::bigint[])
"""
_SUM_STUDIES = """
UPDATE study AS s SET
    series_count = (SELECT count(*) FROM series AS r WHERE r.tenant = s.tenant AND r.study = s.id),
    instance_count = (SELECT coalesce(sum(instance_count), 0) FROM series AS r
        WHERE r.tenant = s.tenant AND r.study = s.id),
    modalities = ARRAY(SELECT DISTINCT Modality FROM series AS r
        WHERE r.tenant = s.tenant AND r.study = s.id AND Modality <> '' ORDER BY Modality),
    sop_classes = ARRAY(SELECT DISTINCT SOPClassUID FROM content AS c
        JOIN series AS r ON r.tenant = c.tenant AND r.id = c.series
        WHERE r.tenant = s.tenant AND r.study = s.id ORDER BY SOPClassUID)
WHERE s.tenant = ANY($1::text[]) AND s.id = ANY($2::bigint[])
"""
_NO_CONTENT = "DELETE FROM content WHERE tenant = ANY($1::text[]) AND series = ANY($2::bigint[]) AND instances = 0"
_NO_INSTANCES = """
DELETE FROM series AS r WHERE r.tenant = ANY($1::text[]) AND r.id = ANY($2::bigint[])
    AND NOT EXISTS (SELECT 1 FROM content AS c WHERE c.tenant = r.tenant AND c.series = r.id)
"""
_NO_SERIES = """
DELETE FROM study AS s WHERE s.tenant = ANY($1::text[]) AND s.id = ANY($2::bigint[])
    AND NOT EXISTS (SELECT 1 FROM series AS r WHERE r.tenant = s.tenant AND r.study = s.id)
RETURNING s.patient
"""
_NO_STUDIES = """
DELETE FROM patient AS p WHERE p.tenant = ANY($1::text[]) AND p.id = ANY($2::bigint[])
    AND NOT EXISTS (SELECT 1 FROM study AS s WHERE s.tenant = p.tenant AND s.patient = p.id)
"""
Name = tuple[str, str]


class More(Again):
    """The transaction touches what it has no lock on; `buckets` are all it needs."""

    def __init__(self, buckets: frozenset[int]) -> None:
        super().__init__()
        self.buckets = buckets


def _bucket(kind: str, tenant: str, name: str) -> int:
    return crc32(f"{kind}\x1e{tenant}\x1e{name}".encode("utf-8", "replace")) % _BUCKETS


def buckets(entries: Sequence[Entry]) -> frozenset[int]:
    """Return the locks on the studies and patients that `entries` name."""
    studies = {_bucket("study", clean(entry.tenant), clean(entry.study_uid)) for entry in entries}
    return frozenset(
        studies | {_bucket("patient", clean(entry.tenant), clean(patient_identity(entry))) for entry in entries}
    )


class _Served:
    """An instance that the database has: where its counts are."""

    __slots__ = ("identity", "series", "size", "sop_class", "study", "study_uid")

    def __init__(self, row: Any) -> None:
        self.series, self.study, self.study_uid = row["series"], row["study"], row["studyinstanceuid"]
        self.size, self.sop_class, self.identity = row["size"], row["sopclassuid"], row["identity"]


class Batch:
    """One batch within one transaction."""

    def __init__(self, connection: Any, policy: Policy, held: frozenset[int]) -> None:
        self._connection = connection
        self._policy = policy
        self._held = held
        self._known = Known(policy)
        self._keys: set[str] = set()
        self._kept: dict[Name, set[tuple[str, int]]] = defaultdict(set)
        self._served: dict[Name, _Served] = {}
        self._new: dict[Name, tuple[Entry, SeriesRow]] = {}
        self._aside: list[Entry] = []
        self._displaced: set[Name] = set()
        self._added: dict[tuple[SeriesRow, str], list[int]] = defaultdict(lambda: [0, 0])
        self._taken: list[tuple[str, _Served]] = []

    async def index(self, entries: Sequence[Entry]) -> list[Fate]:
        """Take in `entries`; return their fates. Raises: More, and asyncpg's errors."""
        await self._connection.execute(_LOCK, _LOCKS, sorted(self._held))
        await self._look_up(entries)
        self._see_locks(entries)
        fates = [self._take(entry) for entry in entries]
        if self._new or self._aside:
            await self._write()
        return fates

    async def _look_up(self, entries: Sequence[Entry]) -> None:
        fetch = self._connection.fetch
        names = sorted({_name(entry) for entry in entries})
        asked = ([tenant for tenant, _ in names], [uid for _, uid in names])
        self._keys.update(row["key"] for row in await fetch(_KEYS, [entry.key for entry in entries]))
        for row in await fetch(_SERVED, *asked):
            name = (row["tenant"], row["sopinstanceuid"])
            self._served[name] = _Served(row)
            self._kept[name].add((row["sha256"], row["length"]))
        if self._served:  # what is aside lies beside something that is served
            for row in await fetch(_ASIDE, *asked):
                self._kept[row["tenant"], row["sopinstanceuid"]].add((row["sha256"], row["length"]))
        await self._known.look_up(self._connection, entries)

    def _see_locks(self, entries: Sequence[Entry]) -> None:
        """Raise More where an instance that is there will change, or its study, or a patient may be left."""
        needed: set[int] = set()
        for entry in entries:
            name = _name(entry)
            served = self._served.get(name)
            if served is None or entry.key in self._keys or _digest(entry) in self._kept[name]:
                continue
            needed.add(_bucket("instance", *name))
            if self._policy is Policy.REPLACE:
                needed.add(_bucket("study", name[0], served.study_uid))
                needed.add(_bucket("patient", name[0], served.identity))
        if self._policy is Policy.REPLACE:
            needed.update(_bucket("patient", *name) for name in self._known.patients_of_studies())
        if needed - self._held:
            raise More(self._held | needed)

    def _take(self, entry: Entry) -> Fate:
        """Judge `entry` by what is kept, and have it written with the batch."""
        if entry.key in self._keys:
            return Fate.AGAIN
        kept = self._kept[_name(entry)]
        digest = _digest(entry)
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
        series = self._known.series(entry)
        self._new[_name(entry)] = (entry, series)
        self._count(series, entry, 1)

    def _count(self, series: SeriesRow, entry: Entry, sign: int) -> None:
        count = self._added[series, clean(entry.sop_class_uid)]
        count[0] += sign
        count[1] += sign * entry.size

    def _replace(self, entry: Entry) -> None:
        name = _name(entry)
        if earlier := self._new.pop(name, None):
            self._aside.append(earlier[0])
            self._count(earlier[1], earlier[0], -1)
        else:
            self._displaced.add(name)
            self._taken.append((name[0], self._served[name]))
        self._serve(entry)

    async def _write(self) -> None:
        """Write what was taken, and bring every count up to date."""
        connection = self._connection
        await self._known.write(connection)
        if self._displaced:
            names = sorted(self._displaced)
            await connection.execute(_SET_ASIDE, [tenant for tenant, _ in names], [uid for _, uid in names])
        # In the order of their keys: two transactions that meet then wait for one another in one direction only.
        rows = [
            (name, instance_row(series.id, entry)) for name, (entry, series) in sorted(self._new.items(), key=_first)
        ]
        await update(
            connection, "instance", INSTANCE, [row for name, row in rows if name in self._served], "SOPInstanceUID"
        )
        await insert(connection, "instance", INSTANCE, [row for name, row in rows if name not in self._served])
        await insert(connection, "aside", ASIDE, [aside_row(entry) for entry in self._aside])
        if self._new:
            await self._write_counts()

    async def _write_counts(self) -> None:
        counts: dict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0, 0])
        for (series, sop_class), (number, size) in self._added.items():
            count = counts[series.tenant, series.id, sop_class]
            count[0] += number
            count[1] += size
        for tenant, served in self._taken:
            count = counts[tenant, served.series, served.sop_class]
            count[0] -= 1
            count[1] -= served.size
        rows = [(*key, *count) for key, count in sorted(counts.items())]
        await self._connection.execute(_COUNT, *map(list, zip(*rows, strict=True)))
        await self._sum({tenant for tenant, *_ in counts}, {series for _, series, _ in counts})

    async def _sum(self, tenants: Iterable[str], series: Iterable[int]) -> None:
        execute = self._connection.execute
        of, touched = sorted(tenants), sorted(series)
        studies = sorted({row.study.id for row, _ in self._added} | {served.study for _, served in self._taken})
        emptied = self._policy is Policy.REPLACE
        if emptied:
            await execute(_NO_CONTENT, of, touched)
            await execute(_NO_INSTANCES, of, touched)
        await execute(_SUM_SERIES, of, touched)
        if emptied:
            gone = await self._connection.fetch(_NO_SERIES, of, studies)
            patients = {row["patient"] for row in gone} | {row.id for row in self._known.left}
            await execute(_NO_STUDIES, of, sorted(patients))
        await execute(_SUM_STUDIES, of, studies)


def _first(pair: tuple[Name, Any]) -> Name:
    return pair[0]


def _name(entry: Entry) -> Name:
    return clean(entry.tenant), clean(entry.sop_uid)


def _digest(entry: Entry) -> tuple[str, int]:
    return entry.sha256, entry.size - entry.data_set_offset
