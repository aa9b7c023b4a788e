from __future__ import annotations

import time
from pathlib import Path

import pytest

from dicomnode.backends import make_backends
from dicomnode.cli.accounting import account
from dicomnode.config import Config, NodeTable, PluginTable
from dicomnode.model.entry import Policy
from dicomnode.model.instance import receipt_id
from tests.contracts.entries import entry

_DAY_NS = 86_400_000_000_000


def _key(days_ago: float) -> str:
    return f"d/20260102/1.1/1.1.1/1.4-{receipt_id(time.time_ns() - int(days_ago * _DAY_NS))}.dcm"


@pytest.mark.parametrize(
    ("use", "days", "missed"), [("memory", 0, 3), ("memory", 10, 1), ("memory", 40, 3), ("off", 0, 0)]
)
async def test_what_was_forgotten_is_not_missed(tmp_path: Path, use: str, days: int, missed: int) -> None:
    memory = PluginTable("memory")
    backends = make_backends(
        Config(NodeTable(data_dir=str(tmp_path)), storage=memory, broker=memory, database=memory, warehouse=memory)
    )
    entries = [entry(sop=f"1.{number}", key=_key(ago)) for number, ago in enumerate((30, 11, 1))]
    await backends.database.index(entries, Policy.KEEP_FIRST)
    chosen = Config(warehouse=PluginTable(use, {"retain_days": days} if days else {}))
    told: list[None] = []
    found = await account(chosen, backends, lambda: told.append(None))
    assert (found.unrecorded, len(found.unrecorded_first)) == (missed, missed)
    assert found.counts["database"]["instances"] == 3
    assert ("warehouse" in found.counts) == (use != "off")
    assert len(told) == (0 if use == "off" else 3)
