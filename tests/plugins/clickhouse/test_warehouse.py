"""What is peculiar to ClickHouse: its tables, their versions, the pull set-up, a server that goes away."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dicomnode.errors import BadRequest, ConfigError, Unavailable
from dicomnode.model.messages import TransferStatus, encode
from dicomnode.model.warehouse import ACCESS, IMAGE, OBJECT, STATE, TABLES, Grouping, Holding, Span
from dicomnode_clickhouse.asking import Refused, Server, address
from dicomnode_clickhouse.migrating import SCHEMA
from dicomnode_clickhouse.rows import packed
from dicomnode_clickhouse.tables import ERRORS, VERSIONS, Layout, text
from dicomnode_clickhouse.warehouse import ClickHouseWarehouse, Options
from tests.backends import clickhouse, started
from tests.backends.postgres import free_port
from tests.contracts.rows import access_row, image_row, object_row, state_row

FAR = Path("/nowhere")
QUEUE_COLUMNS = "_error String, _raw_message String, _topic String, _partition UInt64, _offset UInt64"


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("warehouse", "clickhouse")


def made(options: dict[str, Any], **told: Any) -> ClickHouseWarehouse:
    return ClickHouseWarehouse(Options(**options | told), FAR)


def database(options: dict[str, Any]) -> str:
    return str(options["url"]).rpartition("/")[2]


async def engine_of(warehouse: ClickHouseWarehouse, options: dict[str, Any], table: str) -> str:
    query = "SELECT engine_full FROM system.tables WHERE database = {database} AND name = {table}"
    return str((await warehouse._server.ask(query, database=database(options), table=table))[0][0])


async def test_rows_replace_themselves_and_lie_by_month(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        for table in TABLES:
            engine = await engine_of(warehouse, options, table.name)
            assert engine.startswith(f"ReplacingMergeTree({table.version})")
            assert ("PARTITION BY toYYYYMM" in engine) == bool(table.when)
            assert f"ORDER BY ({', '.join(table.key)})" in engine
            assert "fsync_after_insert = 1" in engine, "what is answered for survives a crash of the machine"


async def test_what_is_merged_answers_as_what_is_not(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        for _ in range(3):
            await warehouse.record(OBJECT, [object_row(1), object_row(2)])
        before = await warehouse.holdings(Grouping.AE_TITLE, Span(), 9)
        name = warehouse._layout.name(OBJECT.name)
        assert (await warehouse._ask(f"SELECT count() FROM {name}"))[0][0] == 6
        await warehouse._server.tell(f"OPTIMIZE TABLE {name} FINAL")
        assert (await warehouse._ask(f"SELECT count() FROM {name}"))[0][0] == 2
        assert before == await warehouse.holdings(Grouping.AE_TITLE, Span(), 9) == [Holding("CT1", 1, 2, 2000)]


async def test_rows_last_as_long_as_the_options_say(options: dict[str, Any]) -> None:
    for days in (0, 400, 30, 30, 0):
        async with made(options, retain_days=days) as warehouse:
            for table in TABLES:
                engine = await engine_of(warehouse, options, table.name)
                lasts = re.findall(r"TTL toDateTime\((\w+)\) \+ toIntervalDay\((\d+)\)", engine)
                assert lasts == ([(table.when, str(days))] if table.when and days else [])


async def test_old_rows_go(options: dict[str, Any]) -> None:
    async with made(options, retain_days=30) as warehouse:
        await warehouse.record(ACCESS, [access_row(1, timestamp="2001-01-01T00:00:00Z")])
        await warehouse._server.tell(f"OPTIMIZE TABLE {warehouse._layout.name(ACCESS.name)} FINAL")
        assert (await warehouse.counts())[ACCESS.name] == 0


async def test_a_newer_schema_is_refused_with_the_version_to_install(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        table = warehouse._layout.name(VERSIONS)
        await warehouse._server.tell(f"INSERT INTO {table} (number, program) VALUES ({SCHEMA + 1}, '9.8.7')")
    with pytest.raises(ConfigError, match=r"install dicomnode 9\.8\.7 or newer"):
        await made(options).__aenter__()


async def test_without_migrate_nothing_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not up to date"):
        await made(options, migrate=False).__aenter__()
    async with made(options), made(options, migrate=False) as warehouse:
        assert (await warehouse.counts())[OBJECT.name] == 0


async def test_a_column_that_came_later_is_added(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        await warehouse.record(OBJECT, [object_row(1)])
        await warehouse._server.tell(f"ALTER TABLE {warehouse._layout.name(OBJECT.name)} DROP COLUMN source_ae")
    with pytest.raises(ConfigError, match="not up to date"):
        await made(options, migrate=False).__aenter__()
    async with made(options) as warehouse:
        await warehouse.record(OBJECT, [object_row(2)])
        labels = {holding.label for holding in await warehouse.holdings(Grouping.AE_TITLE, Span(), 9)}
        assert labels == {"", "CT1"}


async def test_a_database_of_any_name(options: dict[str, Any]) -> None:
    url = options["url"] + "%20%60%27%5C%22x"
    async with made({"url": url}) as warehouse:
        await warehouse.record(OBJECT, [object_row(1)])
        assert (await warehouse.counts())[OBJECT.name] == 1
    async with made({"url": url}, migrate=False) as warehouse:
        assert [path async for path in warehouse.keys("")] == [object_row(1).file_path]


async def test_the_definitions_make_what_the_program_needs(options: dict[str, Any]) -> None:
    warehouse = made(options)
    await warehouse._server.open()
    try:
        for statement in warehouse.definitions(pull=False, broker=""):
            assert not statement.rstrip().endswith(";")
            await warehouse._server.tell(statement)
        async with made(options, migrate=False) as opened:
            assert set((await opened.counts()).values()) == {0}
    finally:
        await warehouse._server.close()


@pytest.mark.skipif("DICOMNODE_TEST_CLICKHOUSE_URL" in os.environ, reason="a real server would begin to pull")
async def test_the_pull_set_up_is_sql(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        statements = warehouse.definitions(pull=True, broker="kafka://user:secret@k1:9092,k2")
        assert not any("secret" in statement for statement in statements)
        queues = [statement for statement in statements if "ENGINE = Kafka" in statement]
        assert len(queues) == len(TABLES)
        assert all("kafka_broker_list = 'k1:9092,k2:9092'" in statement for statement in queues)
        for statement in statements:
            ((read,),) = await warehouse._ask(f"SELECT formatQuery({text(statement)})")
            assert read.startswith(("CREATE ", "INSERT ")), "the engine's own parser reads it"
        for statement in queues:  # chDB knows the engine and its settings, and only then finds that it cannot run it
            with pytest.raises(Unavailable, match="code 49"):
                await warehouse._server.tell(statement)
        with pytest.raises(Unavailable, match="code 115"):
            await warehouse._server.tell(queues[0].replace("_queue` (", "_other` (").replace("kafka_format", "kafka_x"))


@pytest.fixture
async def pulled(options: dict[str, Any]) -> Any:
    """The pull set-up, with tables that swallow rows where Kafka's would fetch them: chDB has no Kafka engine."""
    async with made(options) as warehouse:
        for statement in warehouse.definitions(pull=True, broker="kafka://k:9092"):
            swallowing = re.sub(r"(?s)\n\)\nENGINE = Kafka.*", f",\n{QUEUE_COLUMNS}\n) ENGINE = Null", statement)
            await warehouse._server.tell(swallowing)
        yield warehouse


async def test_messages_that_are_pulled_become_the_rows_that_are_recorded(pulled: ClickHouseWarehouse) -> None:
    later = object_row(2, transfer_status=TransferStatus.DONE, updated_time="", attributes=object_row(1).attributes)
    told: tuple[list[msgspec.Struct], ...] = ([object_row(1), later], [state_row()], [image_row()], [access_row()])
    for table, rows in zip(TABLES, told, strict=True):
        into = f"INSERT INTO {pulled._layout.name(f'{table.name}_queue')} FORMAT JSONEachRow"
        body = gzip.compress(b"\n".join(map(encode, rows)))
        await pulled._server.insert(into, body, {"date_time_input_format": "best_effort"})
        name = pulled._layout.name(table.name)
        order = ", ".join(table.key)
        query = f"SELECT * FROM {name} FINAL ORDER BY {order}"
        fetched = await pulled._ask(query)
        await pulled._server.tell(f"TRUNCATE TABLE {name}")
        await pulled.record(table, rows)
        assert fetched == await pulled._ask(query)
        assert len(fetched) == len(rows)


async def test_what_cannot_be_read_is_laid_aside(pulled: ClickHouseWarehouse) -> None:
    queue, errors = pulled._layout.name(f"{STATE.name}_queue"), pulled._layout.name(ERRORS)
    await pulled._server.tell(
        f"INSERT INTO {queue} (_error, _raw_message, _topic, _offset) VALUES ('bad', '{{no', 'dicom_state_queue', 7)"
    )
    found = await pulled._ask(f"SELECT topic, offset, error, message FROM {errors}")
    assert found == [("dicom_state_queue", 7, "bad", "{no")]
    assert (await pulled.counts())[STATE.name] == 0


@pytest.mark.parametrize("broker", ["", "amqp://host", "kafka://", "kafka://a:x", "sqlite"])
def test_only_kafka_can_be_pulled_from(broker: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.options\.url"):
        made({}).definitions(pull=True, broker=broker)


def test_a_cluster_is_stated_in_every_definition() -> None:
    statements = made({}, cluster="all o'f it").definitions(pull=True, broker="kafka://k")
    assert all(" ON CLUSTER `all o'f it`" in text for text in statements if not text.startswith("INSERT"))
    assert sum("ENGINE = Replicated" in statement for statement in statements) == len(TABLES) + 2
    assert "ON CLUSTER" in Layout("d", "c").keep_for(ACCESS)
    assert "ON CLUSTER" in Layout("d", "c").add_column(ACCESS, ACCESS.columns[0])


async def test_an_unknown_cluster_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="0 shards"):
        await made(options, cluster="nowhere").__aenter__()


@pytest.mark.parametrize(
    "url",
    ["", "http://host/d", "clickhouse://host/d", "clickhouse+http:///d", "clickhouse+http://host", "clickhouse+http://h/a/b",
     "clickhouse+http://host:x/d", "clickhouse+http://host/d?ssl=1", "clickhouse+http://host:99999/d"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=r"warehouse\.options\.url"):
        made({"url": url})


def test_addresses() -> None:
    found = address("clickhouse+https://us%40er:p%3Ass@[::1]/my%20d", "other")
    assert (found.url, found.user, found.password, found.database) == ("https://[::1]:8443/", "us@er", "p:ss", "my d")
    assert address("clickhouse+http://h/d", "secret").password == "secret"
    assert address("clickhouse+http://h/d", "").user == "default"


def test_secrets_stay_out_of_sight() -> None:
    options = Options(url="clickhouse+http://u:hidden@h/d", password="hidden")
    assert "hidden" not in repr(options) + repr(address(options.url, options.password))


async def test_a_wrong_password_is_refused(options: dict[str, Any]) -> None:
    wrong = re.sub(r":[^:@]*@", ":hidden@", options["url"])
    with pytest.raises(ConfigError, match="refused the user or the password") as caught:
        await made({"url": wrong}).__aenter__()
    assert "hidden" not in str(caught.value)


async def test_an_absent_server_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await made({"url": f"clickhouse+http://127.0.0.1:{free_port()}/d"}).__aenter__()


async def test_a_row_that_fits_no_column_is_told_without_its_values(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        with pytest.raises(BadRequest) as caught:
            await warehouse.record(OBJECT, [object_row(1), object_row(2, created_time="CANARY", patient_id="CANARY")])
        assert "CANARY" not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert (await warehouse.counts())[OBJECT.name] == 0, "a batch is kept whole or not at all"


def test_rows_are_packed_as_their_table_has_them() -> None:
    (line,) = gzip.decompress(packed(OBJECT, [object_row(1, updated_time="")])).splitlines()
    told = msgspec.json.decode(line)
    assert set(told) == {column.name for column in OBJECT.columns}
    assert told["updated_time"] == "1900-01-01 00:00:00.000"
    assert told["transfer_status"] == "NoNeedTransfer"


@pytest.fixture
def own() -> Iterator[clickhouse.Server]:
    with clickhouse.running(own=True) as server:
        assert isinstance(server, clickhouse.Server)
        yield server


async def test_a_server_goes_away_and_comes_back(own: clickhouse.Server) -> None:
    async with made({"url": own.url("d")}) as warehouse:
        await warehouse.record(IMAGE, [image_row(1)])
        own.stop()
        with pytest.raises(Unavailable):
            await warehouse.record(IMAGE, [image_row(2)])
        with pytest.raises(Unavailable):
            await warehouse.ping()
        own.start()
        await warehouse.ping()
        assert (await warehouse.counts())[IMAGE.name] == 1, "what was recorded outlives a server that is killed"
        await warehouse.record(IMAGE, [image_row(2)])
        assert (await warehouse.counts())[IMAGE.name] == 2
        await warehouse._server.tell(f"DROP TABLE {warehouse._layout.name(VERSIONS)}")
        with pytest.raises(Unavailable):
            await warehouse.ping()


async def test_who_is_let_in_no_more_waits(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(options) as warehouse:
        other = Server(
            msgspec.structs.replace(address(options["url"], ""), password="x"), timeout_s=5, connect_timeout_s=5
        )
        await other.open()
        try:
            with pytest.raises(Refused):
                await other.ask("SELECT 1")
            own, warehouse._server = warehouse._server, other
            with pytest.raises(Unavailable, match="no longer lets us in"):
                await warehouse.record(OBJECT, [object_row(1)])
            with pytest.raises(Unavailable, match="no longer lets us in"):
                await warehouse.counts()
            warehouse._server = own
        finally:
            await other.close()
