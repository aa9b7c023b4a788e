from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dicomnode.backends import locked
from dicomnode.model.warehouse import OBJECT, STATE
from dicomnode.ports.warehouse import Pulling
from dicomnode.services.statistics import Statistics
from dicomnode_memory.warehouse import MemoryWarehouse
from tests.cli.commands import Shell
from tests.contracts.rows import object_row, state_row
from tests.rooms import open_door, open_rooms


class PullingWarehouse(MemoryWarehouse, Pulling):
    """A warehouse that can fetch by itself, and has two rows whenever it is opened."""

    async def __aenter__(self) -> PullingWarehouse:
        rows = [object_row(1, source_ae="CT1\x1b[31m"), object_row(2, source_ae="", file_size=5)]
        await self.record(OBJECT, rows)
        await self.record(STATE, [state_row()])
        return self

    def definitions(self, *, pull: bool, broker: str) -> Sequence[str]:
        return ("CREATE TABLE a", *([f"CREATE QUEUE a FROM '{broker}'"] if pull else []))


USE = "warehouse.use=acme_warehouse:PullingWarehouse"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "acme_warehouse", sys.modules[__name__])
    return iter(())


async def test_statements(shell: Shell) -> None:
    assert await shell("warehouse", "ddl", "--set", USE) == 0
    assert shell.out.split(";\n") == ["CREATE TABLE a", "\n"]
    assert await shell("warehouse", "ddl", "--pull", "--broker", "kafka://k:9092", "--set", USE) == 0
    assert "CREATE QUEUE a FROM 'kafka://k:9092';" in shell.out
    configured = ("--set", "broker.use=kafka", "--set", "broker.options.url=kafka://other:9092")
    assert await shell("warehouse", "ddl", "--pull", "--set", USE, *configured) == 0
    assert "CREATE QUEUE a FROM 'kafka://other:9092';" in shell.out


async def test_statements_that_cannot_be_had(shell: Shell) -> None:
    assert await shell("warehouse", "ddl", "--pull", "--set", USE) == 2
    assert "no Kafka is known" in shell.err
    assert await shell("warehouse", "ddl", "--set", "warehouse.use=memory") == 2
    assert "'memory' cannot fetch messages by itself" in shell.err


async def test_a_report(shell: Shell, tmp_path: Path) -> None:
    where = ("--set", USE, "--set", f"node.data_dir={tmp_path / 'data'}")
    assert await shell("warehouse", "report", "--json", *where) == 0
    assert [each["by"] for each in shell.json] == [
        *("day", "modality", "ae_title", "transfer_syntax", "user", "route"),
    ]
    assert await shell("warehouse", "report", "--by", "ae_title", *where) == 0
    assert shell.out.splitlines() == ["ae_title\tCT1?[31m\t1\t1\t1000", "ae_title\t\t1\t1\t5"]
    assert await shell("warehouse", "report", "--by", "day", "--since", "2026-01-03", "--json", *where) == 0
    assert shell.json[0]["rows"] == []
    assert await shell("warehouse", "report", "--by", "day", "--tenant", "other", "--json", *where) == 0
    assert shell.json[0]["rows"] == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--since", "yesterday"), 1, "since: a day is written YYYY-MM-DD"),
        (("--limit", "0"), 2, "--limit: must be 1 to 10000"),
        (("--set", "warehouse.use=off"), 1, "it has no warehouse"),
        (("--set", "warehouse.use=nothing"), 2, "there is no warehouse plugin 'nothing'"),
    ],
)
async def test_what_cannot_be_reported(
    words: tuple[str, ...], code: int, told: str, shell: Shell, tmp_path: Path
) -> None:
    where = ("--set", USE, "--set", f"node.data_dir={tmp_path / 'data'}")
    assert await shell("warehouse", "report", *where, *words) == code
    assert told in shell.err


async def test_a_node_that_runs_is_asked_itself(shell: Shell, tmp_path: Path) -> None:
    warehouse = MemoryWarehouse(MemoryWarehouse.Options(), tmp_path)
    await warehouse.record(OBJECT, [object_row(7, source_ae="RUNNING"), object_row(8, tenant_id="other")])
    data = tmp_path / "data"
    async with open_rooms(tmp_path) as rooms, open_door(rooms, statistics=Statistics(warehouse)) as server:
        port = server.address.rpartition(":")[2]
        with locked(data):
            where = ("--set", f"node.data_dir={data}", "--set", f"server.port={port}", "--set", "warehouse.use=duckdb")
            assert await shell("warehouse", "report", "--by", "ae_title", "--json", *where) == 0
            assert [row["label"] for row in shell.json[0]["rows"]] == ["RUNNING"]
            assert await shell("warehouse", "report", "--by", "day", "--tenant", "other", "--json", *where) == 0
            assert shell.json[0]["totals"]["objects"] == 1


async def test_a_node_that_runs_without_a_web_door(shell: Shell, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with locked(data):
        nobody = ("--set", f"node.data_dir={data}", "--set", "server.port=1")
        assert await shell("warehouse", "report", *nobody, "--set", "warehouse.use=duckdb") == 2
        assert "is in use by process" in shell.err
        # A warehouse elsewhere can be asked beside the node.
        assert await shell("warehouse", "report", "--by", "modality", *nobody, "--set", USE) == 0
        assert shell.out.startswith("modality\tCT\t")
    await asyncio.sleep(0)
