"""What is peculiar to PostgreSQL: its schema and steps, other writers, a pooler between, a server that goes away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dicomnode.errors import ConfigError, Unavailable
from dicomnode.model.attributes import Level
from dicomnode.model.entry import Counts, Fate, Policy
from dicomnode.model.query import Match, NamePattern, OneOf, Query, Range, Wildcard
from dicomnode_postgres import migrating, tables
from dicomnode_postgres.database import Options, PostgresDatabase
from dicomnode_postgres.finding import statement
from tests.backends import pgbouncer, postgres, started
from tests.contracts.entries import entry

KEEP, REPLACE = Policy.KEEP_FIRST, Policy.REPLACE
TABLES = ("patient", "study", "series", "instance", "aside", "content")
UID = OneOf(("1.2.3",))
FAR = Path("/nowhere")


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("database", "postgres")


@pytest.fixture
async def index(options: dict[str, Any]) -> AsyncIterator[PostgresDatabase]:
    async with PostgresDatabase(Options(**options), FAR) as database:
        yield database


@pytest.fixture
def bouncer(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with pgbouncer.running(started.server("postgres")) as url:
        yield {**options, "url": url}


async def rows(database: PostgresDatabase, text: str, *values: object) -> list[Any]:
    return await database._fetch(text, *values)


async def test_every_searched_attribute_has_its_column(index: PostgresDatabase) -> None:
    for table in TABLES:
        told = await rows(index, "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass", table)
        assert {column.lower() for column in getattr(tables, table.upper())} <= {row[0] for row in told}


async def test_every_unique_key_begins_with_the_tenant_as_citus_needs(index: PostgresDatabase) -> None:
    told = await rows(
        index,
        "SELECT c.relname, a.attname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid"
        " JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indisunique AND c.relnamespace = current_schema()::regnamespace",
    )
    assert {table for table, _ in told} == {*TABLES, "migration"}
    assert {column for table, column in told if table != "migration"} == {"tenant"}
    citus = "".join(step.citus for step in migrating.migrations())
    assert set(re.findall(r"create_distributed_table\('(\w+)', 'tenant'", citus)) == set(TABLES)
    assert re.findall(r"create_reference_table\('(\w+)'\)", citus) == ["migration"]


async def test_texts_are_compared_as_python_compares_them(index: PostgresDatabase) -> None:
    told = await rows(
        index,
        "SELECT DISTINCT c.collname FROM pg_attribute AS a JOIN pg_class AS r ON r.oid = a.attrelid"
        " JOIN pg_collation AS c ON c.oid = a.attcollation WHERE r.relkind = 'r' AND r.relname <> 'migration'"
        " AND r.relnamespace = current_schema()::regnamespace AND a.attnum > 0 AND a.atttypid = 'text'::regtype",
    )
    assert [row[0] for row in told] == ["C"]


async def test_many_may_make_the_schema_at_once(options: dict[str, Any]) -> None:
    async def opened() -> int:
        async with PostgresDatabase(Options(**options), FAR) as database:
            return len(await rows(database, "SELECT 1 FROM migration"))

    assert set(await asyncio.gather(*(opened() for _ in range(4)))) == {len(migrating.migrations())}


async def test_a_newer_or_another_schema_is_refused(options: dict[str, Any], index: PostgresDatabase) -> None:
    async with index._pool.transaction(write=True) as connection:
        await connection.execute("INSERT INTO migration (number, name, sha256, program) VALUES (999, 'x', 'x', '98.7')")
    with pytest.raises(ConfigError, match=r"step 999.*install dicomnode 98\.7 or newer"):
        async with PostgresDatabase(Options(**options), FAR):
            pass
    async with index._pool.transaction(write=True) as connection:
        await connection.execute("DELETE FROM migration WHERE number = 999; UPDATE migration SET sha256 = 'x'")
    with pytest.raises(ConfigError, match="not the one this program has"):
        async with PostgresDatabase(Options(**options), FAR):
            pass


async def test_a_schema_is_made_only_where_that_is_allowed(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"database\.options\.migrate"):
        async with PostgresDatabase(Options(**options, migrate=False), FAR):
            pass
    with pytest.raises(ConfigError, match=r"database\.options.citus"):
        async with PostgresDatabase(Options(**options, citus="on"), FAR):
            pass


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"url": "postgresql://postgres:s3cret@127.0.0.1:{port}/postgres"}, "refused the user or the password"),
        ({"url": "{url}_none"}, "there is no such database"),
        ({"url": "nonsense://"}, "is no address"),
    ],
)
async def test_what_the_operator_must_mend(options: dict[str, Any], wrong: dict[str, str], expected: str) -> None:
    server = started.server("postgres")
    told = {**options, "url": wrong["url"].format(port=server.port, url=server.url)}
    with pytest.raises(ConfigError, match=expected) as caught:
        async with PostgresDatabase(Options(**told), FAR):
            pass
    for text in (str(caught.value), repr(Options(**told)), repr(Options(password="s3cret"))):
        assert "s3cret" not in text
        assert postgres.PASSWORD not in text


async def test_nobody_there_is_unavailable() -> None:
    url = f"postgresql://x@127.0.0.1:{postgres.free_port()}/x"
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with PostgresDatabase(Options(url=url, connect_timeout_s=2.0), FAR):
            pass


async def test_the_password_may_stand_beside_the_url(options: dict[str, Any]) -> None:
    url = re.sub(r"postgres:[^@]+@", "postgres@", options["url"])
    async with PostgresDatabase(Options(**{**options, "url": url, "password": postgres.PASSWORD}), FAR) as database:
        await database.ping()


async def test_what_was_indexed_is_there_for_another_node(options: dict[str, Any], index: PostgresDatabase) -> None:
    one, two = entry(sop="5.1", PatientID="p"), entry(sop="5.2", PatientID="p", PatientName="doe")
    await index.index([one], KEEP)
    async with PostgresDatabase(Options(**options), FAR) as other:
        assert list(await other.index([one, two], KEEP)) == [Fate.AGAIN, Fate.NEW]
    (study,) = await index.find(Query("default", Level.STUDY, {"PatientName": OneOf(("doe",))}))
    assert study.instance_count == 2


@pytest.mark.parametrize("policy", Policy)
async def test_writers_that_meet_lose_and_double_nothing(options: dict[str, Any], policy: Policy) -> None:
    """Four nodes are given the same receptions in other orders and batches; instances also come under two studies."""
    received = [
        entry(
            f"1.{number % 7 + other}",
            sop=f"5.{number}",
            key=f"k/{number}-{other}",
            content=f"{number}-{other}",
            PatientID=f"p{number % 3}",
            SeriesDescription=f"d{number % 2}",
        )
        for number in range(40)
        for other in range(2)
    ]

    async def index(database: PostgresDatabase, step: int) -> list[Fate]:
        mixed = [received[place * step % len(received)] for place in range(len(received))]
        fates: list[Fate] = []
        for start in range(0, len(mixed), 8):
            fates += await database.index(mixed[start : start + 8], policy)
        return fates

    async with (
        PostgresDatabase(Options(**options), FAR) as one,
        PostgresDatabase(Options(**options), FAR) as two,
    ):
        told = await asyncio.gather(*(index((one, two)[step % 2], step) for step in (1, 3, 7, 9)))
        fates = [fate for some in told for fate in some]
        assert fates.count(Fate.NEW) == 40
        assert fates.count(Fate.AGAIN) == len(fates) - 80
        counts = await one.counts()
        assert (counts.instances, counts.bytes) == (40, 80_000)
        assert len([key async for key in one.keys()]) == 80  # noqa: SIM118 -- no mapping
        studies = await one.find(Query("default", Level.STUDY))
        assert sum(study.instance_count for study in studies) == 40
        assert len(studies) == counts.studies
        assert all(study.instance_count for study in studies)
        assert len(await one.find(Query("default", Level.INSTANCE))) == 40
        patients = await one.find(Query("default", Level.PATIENT))
        assert sum(patient.instance_count for patient in patients) == 40
        assert all(patient.studies for patient in patients)


async def test_through_a_pooler_no_session_is_relied_on(bouncer: dict[str, Any]) -> None:
    async with PostgresDatabase(Options(**bouncer, pool=16), FAR) as database:
        batches = [[entry(f"1.{study}", sop=f"5.{study}.{number}") for number in range(20)] for study in range(20)]
        told = await asyncio.gather(*(database.index(batch, KEEP) for batch in batches))
        assert {fate for fates in told for fate in fates} == {Fate.NEW}
        asked = [Query("default", Level.STUDY, {"StudyInstanceUID": OneOf((f"1.{study}",))}) for study in range(20)]
        for found in await asyncio.gather(*(database.find(query) for query in asked * 5)):
            assert [study.instance_count for study in found] == [20]
        assert len([key async for key in database.keys()]) == 400  # noqa: SIM118 -- no mapping
        assert await database.counts() == Counts(20, 20, 20, 400, 400_000)


async def test_a_pooler_is_noticed(options: dict[str, Any], bouncer: dict[str, Any]) -> None:
    for told, direct in ((options, True), (bouncer, False)):
        database = PostgresDatabase(Options(**told), FAR)
        connection = await database._pool.connect()
        try:
            assert await database._prepare(connection) is direct
        finally:
            connection.terminate()


async def test_a_slow_statement_is_broken_off_and_the_next_is_not(options: dict[str, Any]) -> None:
    async with PostgresDatabase(Options(**options, statement_timeout_s=0.2, pool=1), FAR) as database:
        with pytest.raises(Unavailable, match="took too long"):
            await rows(database, "SELECT pg_sleep(20)")
        await database.ping()


async def test_who_goes_leaves_no_connection_behind(options: dict[str, Any]) -> None:
    async with PostgresDatabase(Options(**options, pool=1), FAR) as database:
        for _ in range(3):
            waiting = asyncio.create_task(rows(database, "SELECT pg_sleep(20)"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await database.ping()


async def test_a_busy_pool_is_unavailable(options: dict[str, Any]) -> None:
    async with PostgresDatabase(Options(**options, pool=1, connect_timeout_s=0.2), FAR) as database:
        async with database._pool.transaction():
            with pytest.raises(Unavailable):
                await database.ping()
        await database.ping()


async def test_values_no_column_was_made_for(index: PostgresDatabase) -> None:
    long = "ä" * 5000
    odd = entry(long, series=long, PatientID=long, PatientName=long, StudyDescription=f"a\0{long}", StudyDate=long)
    other = entry(long + "x", sop="5.2", PatientID=long + "x", AccessionNumber="\0")
    assert list(await index.index([odd, other], KEEP)) == [Fate.NEW, Fate.NEW]
    assert list(await index.index([odd, other], KEEP)) == [Fate.AGAIN, Fate.AGAIN]
    assert (await index.counts()).patients == 2
    for query in (
        {"StudyInstanceUID": OneOf((long,))},
        {"StudyDescription": OneOf((f"a\0{long}",))},
        {"StudyDescription": Wildcard("a*")},
        {"PatientName": NamePattern((long[:300] + "*",))},
    ):
        assert len(await index.find(Query("default", Level.STUDY, query))) == 1
    assert len(await index.locate("default", long)) == 1


PLANS: list[tuple[Level, dict[str, Match], str]] = [
    (Level.STUDY, {}, "study_cursor"),
    (Level.STUDY, {"StudyInstanceUID": UID}, "study_tenant_studyinstanceuid_key"),
    (Level.STUDY, {"PatientID": OneOf(("p7",))}, "study_patient_id"),
    (Level.STUDY, {"PatientName": NamePattern(("name7*",))}, "study_patient_name"),
    (Level.STUDY, {"AccessionNumber": OneOf(("a7",))}, "study_accession_number"),
    (Level.STUDY, {"StudyDate": Range("20240101", "20240102")}, "study_cursor"),
    (Level.SERIES, {"SeriesInstanceUID": UID}, "series_uid"),
    (Level.INSTANCE, {"StudyInstanceUID": UID, "SeriesInstanceUID": UID}, "instance_place"),
    (Level.INSTANCE, {"SOPInstanceUID": UID}, "instance_pkey"),
    (Level.PATIENT, {"PatientID": OneOf(("p7",))}, "patient_id"),
]


async def test_plans_use_an_index(index: PostgresDatabase) -> None:
    some = [
        entry(
            f"1.{n}",
            sop=f"5.{n}",
            PatientID=f"p{n}",
            PatientName=f"name{n}^x",
            AccessionNumber=f"a{n}",
            StudyDate=f"{2000 + n % 24}0{n % 9 + 1}11",
        )
        for n in range(3000)
    ]
    for start in range(0, 3000, 500):
        await index.index(some[start : start + 500], KEEP)
    async with index._pool.transaction(write=True) as connection:
        await connection.execute("ANALYZE")
        for level, matches, expected in PLANS:
            text, values = statement(Query("default", level, matches))
            told = await connection.fetch(f"EXPLAIN {text}", *values)
            plan = "\n".join(row[0] for row in told)
            assert expected in plan, plan


async def test_a_server_that_is_stopped_and_started() -> None:
    with postgres.running(own=True) as server:
        async with PostgresDatabase(Options(url=server.url, connect_timeout_s=5.0), FAR) as database:
            await database.index([entry(sop="5.1")], KEEP)
            server.stop()
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await database.index([entry(sop="5.2")], KEEP)
                with pytest.raises(Unavailable):
                    await database.find(Query("default", Level.STUDY))
                with pytest.raises(Unavailable):
                    await database.ping()
            tasks = len(asyncio.all_tasks())
            server.start()
            await database.ping()
            assert list(await database.index([entry(sop="5.1"), entry(sop="5.2")], KEEP)) == [Fate.AGAIN, Fate.NEW]
            assert len(asyncio.all_tasks()) <= tasks


async def test_sessions_that_are_ended_under_us(index: PostgresDatabase, options: dict[str, Any]) -> None:
    await index.ping()
    connection = await asyncpg.connect(options["url"])
    for _ in range(3):
        await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'dicomnode' AND pid <> pg_backend_pid()"
        )
        for _ in range(200):
            try:
                await index.index([entry()], KEEP)
                break
            except Unavailable:
                continue
        else:
            pytest.fail("it does not find back")
    await connection.close()
    assert (await index.counts()).instances == 1
