"""What was promised before SIGKILL holds after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicomnode.model.attributes import Level
from dicomnode.model.query import Query
from dicomnode.model.warehouse import OBJECT, STATE, Grouping, Span
from dicomnode_duckdb.warehouse import DuckDbWarehouse
from dicomnode_duckdb.warehouse import Options as DuckDbOptions
from dicomnode_files.storage import FileStorage
from dicomnode_files.storage import Options as FileOptions
from dicomnode_sqlite.broker import Options as BrokerOptions
from dicomnode_sqlite.broker import SqliteBroker
from dicomnode_sqlite.database import Options as DatabaseOptions
from dicomnode_sqlite.database import SqliteDatabase
from tests.plugins.killed import GROUP, TOPIC, body

PROJECT = Path(__file__).parents[2]


def promises_until_killed(what: str, folder: Path, count: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.plugins.killed", what, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=environment,
    ) as program:
        assert program.stdout is not None
        lines = [program.stdout.readline().rstrip("\n") for _ in range(count)]
        program.kill()
        rest = program.stdout.read().split("\n")[:-1]  # the last may be cut
    assert all(lines), "the program ended by itself"
    return [*lines, *rest]


@pytest.mark.parametrize("count", [1, 57, 300])
async def test_storage(tmp_path: Path, count: int) -> None:
    keys = promises_until_killed("storage", tmp_path, count)
    async with FileStorage(FileOptions(), tmp_path) as files:
        for key in keys:
            assert await files.read(key) == body(key)
        extra = {found.key async for found in files.list()} - set(keys)
        await files.delete([*keys, *extra])
        assert len(extra) <= 8, "at most what was under way"


@pytest.mark.parametrize("count", [5, 100, 1000])
async def test_broker(tmp_path: Path, count: int) -> None:
    promises = [line.split() for line in promises_until_killed("broker", tmp_path, count)]
    told = {word: {rest for first, rest in promises if first == word} for word, _ in promises}
    published, acknowledged = told.get("published", set()), told.get("acknowledged", set())
    async with SqliteBroker(BrokerOptions(), tmp_path) as broker:
        subscription = await broker.subscribe(TOPIC, GROUP)
        left = (await broker.lag(TOPIC, GROUP)).messages
        came: list[str] = []
        positions: list[int] = []
        while len(came) < left:
            for delivery in await subscription.take(100):
                assert delivery.redelivered
                came.append(delivery.message.body.decode())
                positions.append(delivery.position)
    assert len(set(came)) == len(came)
    assert positions == sorted(positions)
    assert published <= set(came) | acknowledged | {
        line for line in published if line not in came and _may_be_acknowledged(line, promises)
    }
    assert not acknowledged & set(came)
    assert not told.get("withdrawn", set()) & set(came)


def _may_be_acknowledged(line: str, promises: list[list[str]]) -> bool:
    """Tell whether the kill may have come between the acknowledgement and the line that tells of it."""
    return line in [rest for first, rest in promises if first == "published"][-20:]


@pytest.mark.parametrize("count", [1, 100])
async def test_database(tmp_path: Path, count: int) -> None:
    numbers = promises_until_killed("database", tmp_path, count)
    async with SqliteDatabase(DatabaseOptions(), tmp_path) as index:
        counts = await index.counts()
        assert counts.instances in (len(numbers) * 10, len(numbers) * 10 + 10)
        studies = await index.find(Query("default", Level.STUDY))
        assert sum(study.instance_count for study in studies) == counts.instances


@pytest.mark.parametrize("count", [1, 30])
async def test_warehouse(tmp_path: Path, count: int) -> None:
    promises = [line.split() for line in promises_until_killed("warehouse", tmp_path, count)]
    async with DuckDbWarehouse(DuckDbOptions(), tmp_path) as warehouse:
        kept = [key async for key in warehouse.keys()]  # noqa: SIM118 -- no mapping
        promised = {f"{number}/{part:05}" for number, size in promises for part in range(int(size))}
        assert promised <= set(kept)
        assert len(kept) == len(set(kept))
        extra = {key.partition("/")[0] for key in set(kept) - promised}
        assert extra <= {str(len(promises))}, "at most the one under way, whole or not at all"
        counts = await warehouse.counts()
        assert (counts[OBJECT.name], counts[STATE.name]) == (len(kept), 20)
        (day,) = await warehouse.holdings(Grouping.DAY, Span(), 10)
        assert day.objects == len(kept)
