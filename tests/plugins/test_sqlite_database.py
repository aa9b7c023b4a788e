"""What is peculiar to the index's file: its plans, its columns, a query broken off, files that cannot be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dicomnode.errors import ConfigError, Corrupt, Full, Unavailable
from dicomnode.model.attributes import Level
from dicomnode.model.entry import Fate, Policy
from dicomnode.model.query import Match, NamePattern, OneOf, Query, Range, Wildcard
from dicomnode_sqlite import database as database_module
from dicomnode_sqlite import tables
from dicomnode_sqlite.database import Options, SqliteDatabase
from dicomnode_sqlite.finding import statement
from tests.contracts.entries import entry


def database(folder: Path, **options: float) -> SqliteDatabase:
    return SqliteDatabase(Options(**options), folder)  # type: ignore[arg-type]


async def test_every_searched_attribute_has_its_column(tmp_path: Path) -> None:
    async with database(tmp_path) as index:
        for table in ("patient", "study", "series", "instance", "aside"):
            there = {row[1] for row in index._connection.execute(f"PRAGMA table_info({table})")}
            assert set(getattr(tables, table.upper())) <= there


UID = OneOf(("1.2.3",))
PLANS: list[tuple[Level, dict[str, Match], str, bool]] = [
    (Level.STUDY, {}, "study_cursor (tenant=?)", False),
    (Level.STUDY, {"StudyInstanceUID": UID}, "(tenant=? AND StudyInstanceUID=?)", True),
    (Level.STUDY, {"PatientID": OneOf(("p",))}, "study_patient_id (tenant=? AND PatientID=?)", True),
    (Level.STUDY, {"AccessionNumber": OneOf(("p",))}, "study_accession_number", True),
    (Level.STUDY, {"StudyID": OneOf(("p",))}, "study_study_id", True),
    (Level.STUDY, {"StudyDate": Range("20240101", "20240131")}, "(tenant=? AND cursor>? AND cursor<?)", False),
    (Level.STUDY, {"StudyDate": OneOf(("20240101",))}, "(tenant=? AND cursor>? AND cursor<?)", False),
    (Level.STUDY, {"ModalitiesInStudy": OneOf(("CT",))}, "study_cursor (tenant=?)", False),
    (Level.SERIES, {"StudyInstanceUID": UID}, "(tenant=? AND StudyInstanceUID=?)", True),
    (Level.SERIES, {"SeriesInstanceUID": UID}, "SeriesInstanceUID=?", True),
    (Level.SERIES, {}, "study_cursor (tenant=?)", False),
    (Level.INSTANCE, {}, "instance_place (series=?)", False),
    (Level.INSTANCE, {"StudyInstanceUID": UID, "SeriesInstanceUID": UID}, "instance_place (series=?)", True),
    (Level.INSTANCE, {"SOPInstanceUID": UID}, "(tenant=? AND SOPInstanceUID=?)", True),
    (Level.PATIENT, {"PatientID": OneOf(("p",))}, "patient_id (tenant=? AND PatientID=?)", True),
]


@pytest.mark.parametrize(("level", "matches", "expected", "may_sort"), PLANS)
async def test_plans_use_an_index(
    tmp_path: Path, level: Level, matches: dict[str, Match], expected: str, may_sort: bool
) -> None:
    async with database(tmp_path) as index:
        text, values = statement(Query("default", level, matches))
        plan = "\n".join(row[3] for row in index._free[0].execute(f"EXPLAIN QUERY PLAN {text}", values))
    assert expected in plan
    assert not any(line.startswith("SCAN") and "json_each" not in line for line in plan.split("\n")), plan
    if not may_sort:
        assert "TEMP B-TREE FOR ORDER BY" not in plan, "only within one study it may sort"


@pytest.mark.parametrize("match", [NamePattern(("do*",)), Wildcard("do*")])
async def test_the_start_of_a_name_does_not_scan(tmp_path: Path, match: Match) -> None:
    async with database(tmp_path) as index:
        text, values = statement(Query("default", Level.STUDY, {"PatientName": match}))
        plan = "\n".join(row[3] for row in index._free[0].execute(f"EXPLAIN QUERY PLAN {text}", values))
    assert "SCAN study" not in plan


async def test_a_slow_query_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_STEPS", 1)
    async with database(tmp_path, query_timeout_s=-1.0) as index:
        with pytest.raises(Unavailable, match="too long"):
            await index.find(Query("default", Level.STUDY))
    async with database(tmp_path) as index:
        assert await index.find(Query("default", Level.STUDY)) == []


async def test_what_was_indexed_is_there_after_a_restart(tmp_path: Path) -> None:
    one, two = entry(sop="5.1", PatientID="p"), entry(sop="5.2", PatientID="p", PatientName="doe")
    async with database(tmp_path) as index:
        await index.index([one], Policy.KEEP_FIRST)
    async with database(tmp_path) as index:
        assert list(await index.index([one, two], Policy.KEEP_FIRST)) == [Fate.AGAIN, Fate.NEW]
        (study,) = await index.find(Query("default", Level.STUDY, {"PatientName": OneOf(("doe",))}))
        assert study.instance_count == 2


async def test_a_failed_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    async with database(tmp_path) as index:
        await index.index([entry("1.1", sop="5.0")], Policy.KEEP_FIRST)
        before = await index.counts()
        pages = index._connection.execute("PRAGMA page_count").fetchone()[0]
        index._connection.execute(f"PRAGMA max_page_count = {pages + 5}").fetchall()
        large = [entry(f"2.{number}", sop=f"5.{number + 1}", PatientID=f"{number}") for number in range(500)]
        with pytest.raises(Full):
            await index.index(large, Policy.KEEP_FIRST)
        assert await index.counts() == before
        index._connection.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert set(await index.index(large, Policy.KEEP_FIRST)) == {Fate.NEW}
        assert len(await index.find(Query("default", Level.STUDY, limit=1000))) == 501


async def test_an_entry_that_can_never_be_written_is_not_waited_for(tmp_path: Path) -> None:
    # SQLite reads a JSON text up to its first NUL, so the second is not seen to be one of the first.
    first, second = (entry("1.1", sop="1.2\0x", content=content) for content in ("a", "b"))
    async with database(tmp_path) as index:
        await index.index([first], Policy.KEEP_FIRST)
        with pytest.raises(Corrupt):
            await index.index([second], Policy.KEEP_FIRST)
        assert await index.index([entry("1.1", sop="1.3")], Policy.KEEP_FIRST) == [Fate.NEW]


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"database\.options\.path.*damaged"):
        async with database(tmp_path):
            pass
    (tmp_path / "index.sqlite").unlink()
    async with database(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer"):
        async with database(tmp_path):
            pass
