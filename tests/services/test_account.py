from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dicomnode.model.entry import Policy
from dicomnode.model.instance import receipt_id
from dicomnode.model.warehouse import OBJECT
from dicomnode.services.account import Account
from dicomnode_memory.database import MemoryDatabase
from dicomnode_memory.warehouse import MemoryWarehouse
from tests.contracts.entries import entry
from tests.contracts.rows import object_row


class House:
    """An index and a warehouse of some keys each."""

    def __init__(self, folder: Path) -> None:
        self.database = MemoryDatabase(MemoryDatabase.Options(), folder)
        self.warehouse = MemoryWarehouse(MemoryWarehouse.Options(), folder)

    async def fill(self, indexed: list[str], recorded: list[str]) -> None:
        entries = [entry(sop=f"1.{number}", key=key) for number, key in enumerate(indexed)]
        await self.database.index(entries, Policy.KEEP_FIRST)
        await self.warehouse.record(OBJECT, [object_row(number, file_path=key) for number, key in enumerate(recorded)])

    async def unrecorded(self, since_ms: int = 0) -> list[str]:
        account = Account(self.database, self.warehouse, since_ms)
        return [location.key async for location in account.unrecorded()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.parametrize(
    ("indexed", "recorded", "missing"),
    [
        ([], [], []),
        (["a/1", "a/2"], ["a/1", "a/2"], []),
        (["a/1", "a/2"], [], ["a/1", "a/2"]),
        (["a/10", "a/2", "b/1"], ["a/2"], ["a/10", "b/1"]),
        (["b/1"], ["a/1", "b/1", "c/1"], []),
        (["A/1", "a/1", "a_1"], ["0/1", "A/1", "a/0", "z/1"], ["a/1", "a_1"]),
        ([], ["a/1"], []),
    ],
)
async def test_what_is_indexed_and_in_no_row_is_found_in_order(
    house: House, indexed: list[str], recorded: list[str], missing: list[str]
) -> None:
    await house.fill(indexed, recorded)
    assert await house.unrecorded() == missing


async def test_what_the_warehouse_may_have_forgotten_is_not_missed(house: House) -> None:
    old, new = (f"d/20260102/1.2/1.3/1.4-{receipt_id(ms * 1_000_000)}.dcm" for ms in (1_000, 5_000))
    await house.fill([old, new, "foreign/key"], [])
    assert await house.unrecorded(5_000) == [new, "foreign/key"]


async def test_each_object_is_told_of(house: House) -> None:
    await house.fill(["a/1", "a/2"], ["a/1"])
    told: list[None] = []
    account = Account(house.database, house.warehouse)
    found = [location async for location in account.unrecorded(lambda: told.append(None))]
    assert (len(found), len(told)) == (1, 2)
    assert msgspec.structs.asdict(found[0])["key"] == "a/2"
