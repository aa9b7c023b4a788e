"""Index rates and query times of the databases, each alone: `python -m bench.database [INSTANCES]`. JSON, one a line.

SQLite writes to a temporary folder (TMPDIR); PostgreSQL is a server of its own there, whose commits are synced too.
`mine_s` is the time on this process's core, which is what a consumer has.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from dicomnode.model.attributes import Level, searched_at
from dicomnode.model.entry import Entry, Policy
from dicomnode.model.instance import Fragments
from dicomnode.model.query import NamePattern, OneOf, Query, Range, Wildcard
from dicomnode.ports.database import Database
from dicomnode_postgres.database import Options as PostgresOptions
from dicomnode_postgres.database import PostgresDatabase
from dicomnode_sqlite.database import Options as SqliteOptions
from dicomnode_sqlite.database import SqliteDatabase
from tests.backends import pgbouncer, postgres

CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.8.498.20240131"
BATCH, IN_SERIES, SERIES_IN_STUDY, ASKED = 500, 100, 4, 300


def fragment(level: Level, columns: dict[str, str]) -> str:
    found = {a.tag: {"vr": a.vr, "Value": [columns[a.keyword]]} for a in searched_at(level) if a.keyword in columns}
    return json.dumps(found, separators=(",", ":"))


def entry(number: int) -> Entry:
    """Return a CT slice as a consumer has it: 400 in a study of four series."""
    study, series = number // (IN_SERIES * SERIES_IN_STUDY), number // IN_SERIES
    columns = {
        "PatientName": f"name{study % 5000}^given",
        "PatientID": f"P{study % 5000:07d}",
        "PatientBirthDate": f"19{study % 90 + 10}0101",
        "PatientSex": "F",
        "StudyDate": f"20{study % 24:02d}{study % 12 + 1:02d}{study % 28 + 1:02d}",
        "StudyTime": "101112.000000",
        "AccessionNumber": f"A{study:07d}",
        "StudyDescription": "abdomen routine",
        "Modality": "CT",
        "SeriesNumber": str(series % SERIES_IN_STUDY + 1),
        "SeriesDescription": "abd 1.5 b30f",
        "InstanceNumber": str(number % IN_SERIES + 1),
        "ContentDate": "20240131",
    }
    sop = f"{ROOT}.3.{number}"
    return Entry(
        tenant="default",
        patient_id=columns["PatientID"],
        study_uid=f"{ROOT}.1.{study}",
        series_uid=f"{ROOT}.2.{series}",
        sop_uid=sop,
        sop_class_uid=CT,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        key=f"default/{columns['StudyDate']}/{ROOT}.1.{study}/{ROOT}.2.{series}/{sop}-01hq.dcm",
        size=525_000,
        data_set_offset=400,
        sha256=hashlib.sha256(sop.encode()).hexdigest(),
        number_of_frames=1,
        received="2024-01-31T10:11:12.000Z",
        fragments=Fragments(*(fragment(level, columns) for level in Level)),
        columns=columns,
    )


def questions(instances: int) -> Iterator[tuple[str, Callable[[int], Query]]]:
    """Yield what is asked, by its name, of studies that are there."""
    studies = max(1, instances // (IN_SERIES * SERIES_IN_STUDY))

    def asked(level: Level, keyword: str, match: Callable[[int], Any]) -> Callable[[int], Query]:
        return lambda number: Query("default", level, {keyword: match(number * 7919 % studies)})

    yield "by study uid", asked(Level.STUDY, "StudyInstanceUID", lambda n: OneOf((f"{ROOT}.1.{n}",)))
    yield "by patient id", asked(Level.STUDY, "PatientID", lambda n: OneOf((f"P{n % 5000:07d}",)))
    yield "by name*", asked(Level.STUDY, "PatientName", lambda n: NamePattern((f"name{n % 5000}^*",)))
    yield "by *text*", asked(Level.STUDY, "AccessionNumber", lambda n: Wildcard(f"*{n:05d}*"))
    yield "by date", asked(Level.STUDY, "StudyDate", lambda n: Range(f"20{n % 24:02d}0101", f"20{n % 24:02d}0131"))
    yield "newest 100 studies", lambda _: Query("default", Level.STUDY)
    yield "series of a study", asked(Level.SERIES, "StudyInstanceUID", lambda n: OneOf((f"{ROOT}.1.{n}",)))
    yield "100 instances of a study", asked(Level.INSTANCE, "StudyInstanceUID", lambda n: OneOf((f"{ROOT}.1.{n}",)))


async def timed(call: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    took = []
    for number in range(ASKED):
        started = time.perf_counter()
        await call(number)
        took.append((time.perf_counter() - started) * 1000)
    return {"p50_ms": round(statistics.median(took), 2), "p95_ms": round(statistics.quantiles(took, n=20)[-1], 2)}


async def measure(name: str, database: Database, instances: int) -> None:
    batches = [list(map(entry, range(start, min(start + BATCH, instances)))) for start in range(0, instances, BATCH)]
    started, own = time.perf_counter(), time.process_time()
    for batch in batches:
        await database.index(batch, Policy.KEEP_FIRST)
    whole, mine = time.perf_counter() - started, time.process_time() - own
    say(name, "index", rows_per_s=round(instances / whole), rows_per_mine_s=round(instances / mine))
    started = time.perf_counter()
    for batch in batches[:20]:
        await database.index(batch, Policy.KEEP_FIRST)
    say(name, "index again", rows_per_s=round(sum(map(len, batches[:20])) / (time.perf_counter() - started)))
    for what, question in questions(instances):
        say(name, what, **await timed(lambda number, ask=question: database.find(ask(number))))  # type: ignore[misc]
    say(name, "locate a study", **await timed(lambda number: database.locate("default", f"{ROOT}.1.{number % 100}")))
    started = time.perf_counter()
    count = len([key async for key in database.keys()])  # noqa: SIM118 -- no mapping
    say(name, "all keys", rows_per_s=round(count / (time.perf_counter() - started)))


def say(name: str, what: str, **figures: float) -> None:
    print(json.dumps({"database": name, "what": what, **figures}), flush=True)


@asynccontextmanager
async def databases() -> AsyncIterator[dict[str, Database]]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        server = stack.enter_context(postgres.running(("fsync = on", "shared_buffers = 512MB"), own=True))
        pooled = stack.enter_context(pgbouncer.running(server))
        opened: dict[str, Database] = {
            "sqlite": SqliteDatabase(SqliteOptions(), folder),
            "postgres": PostgresDatabase(PostgresOptions(url=server.url), folder),
            "postgres, pgbouncer": PostgresDatabase(PostgresOptions(url=pooled, schema="pooled"), folder),
        }
        for database in opened.values():
            await stack.enter_async_context(database)
        yield opened


async def main(instances: int) -> None:
    async with databases() as opened:
        for name, database in opened.items():
            await measure(name, database, instances)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
