"""A backend that is away is tried again; what the operator must mend ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import pytest

from dicomnode import opening
from dicomnode.backends import Backends, Openings, make_backends, make_openings, opened, outbox_path
from dicomnode.config import Config, NodeTable, OutboxTable, PluginTable
from dicomnode.errors import ConfigError, PluginError, Unavailable
from dicomnode.model.warehouse import TABLES
from dicomnode.opening import Opening
from dicomnode.ports.coming import Coming, ComingBroker, ComingWarehouse
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.cache import MemoryCache
from dicomnode_memory.warehouse import MemoryWarehouse
from tests.distant import DistantBroker

DISTANT = PluginTable("tests.distant:DistantBroker")


class Reluctant(MemoryCache):
    """A cache that fails to open as it is told, and remembers what became of it."""

    tries = 0
    closed = 0

    def __init__(self, refuse: Callable[[int], Exception | None]) -> None:
        super().__init__(MemoryCache.Options(), Path("unused"))
        self.refuse = refuse

    async def __aenter__(self) -> Self:
        type(self).tries += 1
        if error := self.refuse(type(self).tries):
            raise error
        return self

    async def __aexit__(self, *_: object) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(opening, "_LONGEST_WAIT_S", 0.01)
    Reluctant.tries = Reluctant.closed = 0


def config(folder: Path, broker: PluginTable = DISTANT) -> Config:
    return Config(node=NodeTable(data_dir=str(folder)), broker=broker, warehouse=PluginTable("memory"))


async def test_a_backend_that_is_away_is_tried_again_with_a_plugin_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[Reluctant] = []

    def make() -> Reluctant:
        made.append(Reluctant(lambda tries: Unavailable("acme", "nobody there") if tries <= 6 else None))
        return made[-1]

    being = Opening("cache", make)
    with pytest.raises(Unavailable, match="not opened yet"):
        await being.ping()
    async with AsyncExitStack() as stack:
        assert await being.open(stack) is made[-1]
        assert being.get() is made[-1]
        await being.ping()
        assert (len(made), Reluctant.closed) == (7, 0)
    assert Reluctant.closed == 1, "only what was opened is closed"
    told = capsys.readouterr().out
    assert told.count("backend.waiting") == 1, "once for each change"
    assert told.count("backend.opened") == 1
    assert "nobody there" in told


async def test_each_change_of_what_is_in_the_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(tries: int) -> PluginError | None:
        return Unavailable("acme", f"reason {tries // 3}") if tries < 9 else None

    async with AsyncExitStack() as stack:
        await Opening("cache", lambda: Reluctant(refuse)).open(stack)
    assert capsys.readouterr().out.count("backend.waiting") == 3


async def test_what_must_be_mended_is_not_waited_for() -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match="no such user"):
            await Opening("cache", lambda: Reluctant(lambda _: ConfigError("a.b", "no such user"))).open(stack)
    assert Reluctant.tries == 1


@pytest.mark.parametrize(
    ("roles", "broker", "used"),
    [
        ({"storescp"}, DISTANT, "storage database outbox broker"),
        ({"server"}, DISTANT, "storage database cache outbox broker warehouse"),
        ({"consumer"}, DISTANT, "storage broker database"),
        ({"recorder"}, DISTANT, "broker warehouse"),
        ({"transcoder"}, DISTANT, "storage broker"),
        ({"storescp"}, PluginTable("memory"), "storage broker database"),
        ({"server", "consumer"}, PluginTable("memory"), "storage broker database cache warehouse"),
    ],
)
async def test_a_process_opens_what_its_roles_use(
    roles: set[str], broker: PluginTable, used: str, tmp_path: Path
) -> None:
    openings = Openings(config(tmp_path, broker), roles)
    assert set(openings.asked) == set(used.split())
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        backends = await openings.open(stack, group)
        assert set(backends.by_port()) == set(used.split())
        spare = {port for port, plugin in backends.by_port().items() if isinstance(plugin, Coming)}
        doors_apart = broker is DISTANT and not roles.isdisjoint({"storescp", "server"})
        assert ("broker" in spare) == doors_apart
        assert ("warehouse" in spare) == ("server" in roles)
        assert (backends.outbox is not None) == doors_apart
        assert backends.outgoing is (backends.outbox if doors_apart else backends.broker)


async def test_doors_do_not_wait_for_a_broker_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = True

    class Away(DistantBroker):
        async def __aenter__(self) -> Self:
            if away:
                raise Unavailable("distant", "nobody answers")
            return self

    monkeypatch.setattr("tests.distant.DistantBroker", Away)
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        backends = await asyncio.wait_for(Openings(config(tmp_path), {"storescp"}).open(stack, group), 20)
        assert isinstance(backends.broker, ComingBroker)
        await asyncio.sleep(0.02)
        for call in (
            backends.broker.ping(),
            backends.broker.publish([]),
            backends.broker.lag("t", "g"),
            backends.broker.subscribe("t", "g"),
        ):
            with pytest.raises(Unavailable, match="nobody answers"):
                await call
        away = False
        async with asyncio.timeout(20):
            while True:
                try:
                    await backends.broker.ping()
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)
        await (await backends.broker.subscribe("t", "g")).ack([])
        await backends.broker.publish([])
        assert (await backends.broker.lag("t", "g")).messages == 0


async def test_an_outbox_that_was_left_is_opened_whatever_the_roles_are(tmp_path: Path) -> None:
    outbox_path(config(tmp_path)).touch()
    for broker in (DISTANT, PluginTable("memory")):
        openings = Openings(config(tmp_path, broker), {"consumer"})
        assert "outbox" in openings.asked
        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            backends = await openings.open(stack, group)
            assert backends.outbox is not None
    assert backends.outgoing is backends.broker, "what is embedded needs no log before it"


async def test_the_outbox_calls_its_options_by_their_own_names(tmp_path: Path) -> None:
    folder = tmp_path / "no" / "folder" / "outbox.sqlite"
    told = Config(node=NodeTable(data_dir=str(tmp_path)), broker=DISTANT, outbox=OutboxTable(path=str(folder)))
    with pytest.raises(ConfigError, match=r"^outbox\.path: "):
        async with opened(told):
            pass


async def test_commands_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(MemoryBroker):
        async def __aenter__(self) -> Self:
            raise Unavailable("away", "nobody answers")

    monkeypatch.setattr("tests.test_opening.MemoryBroker", Away)
    with pytest.raises(Unavailable, match="nobody answers"):
        async with opened(config(tmp_path, PluginTable("tests.test_opening:MemoryBroker"))):
            pass
    async with opened(config(tmp_path, PluginTable("tests.test_opening:MemoryBroker")), ("storage",)) as backends:
        assert set(backends.by_port()) == {"storage"}


async def test_a_warehouse_to_come_is_the_one_that_came(tmp_path: Path) -> None:
    there: list[MemoryWarehouse] = []

    def give() -> MemoryWarehouse:
        if not there:
            raise Unavailable("warehouse", "not yet")
        return there[0]

    async with ComingWarehouse(give) as coming:
        with pytest.raises(Unavailable):
            await coming.counts()
        with pytest.raises(Unavailable):
            coming.keys()
        there.append(MemoryWarehouse(MemoryWarehouse.Options(), tmp_path))
        await coming.ping()
        await coming.record(TABLES[0], [])
        assert set(await coming.counts()) == {table.name for table in TABLES}
        assert [key async for key in coming.keys("a/")] == []


def test_nothing_is_touched_before_it_is_opened(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert isinstance(make_backends(config(data_dir)), Backends)
    assert set(make_openings(config(data_dir))) == {"storage", "broker", "database", "cache", "warehouse", "outbox"}
    assert not data_dir.exists()
