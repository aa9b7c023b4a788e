"""What is peculiar to Doris: its tables, their versions, the pull set-up, who is let in.

No Doris is to be had here: see tests/backends/serve_doris.py for what the stand-in enforces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlglot
from sqlglot import exp

from dicomnode.errors import BadRequest, ConfigError, Unavailable
from dicomnode.model.warehouse import ACCESS, OBJECT, TABLES, Grouping, Span
from dicomnode_doris.addresses import Frontend, cluster
from dicomnode_doris.migrating import SCHEMA
from dicomnode_doris.rows import lines, moment
from dicomnode_doris.tables import VERSIONS, Layout, key_of, ordered
from dicomnode_doris.warehouse import DorisWarehouse, Options
from tests.backends import doris, started
from tests.backends.postgres import free_port
from tests.contracts.rows import access_row, object_row

FAR = Path("/nowhere")


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("warehouse", "doris")


def made(options: dict[str, Any], **told: Any) -> DorisWarehouse:
    return DorisWarehouse(Options(**options | told), FAR)


def table_of(name: str, **told: Any) -> str:
    return next(text for text in Layout("d", **told).create_all() if f".`{name}` (" in text)


def test_what_rows_are_parted_by_is_of_the_key() -> None:
    for table in TABLES:
        text = table_of(table.name)
        assert key_of(table)[: len(table.key)] == table.key
        assert f"UNIQUE KEY ({', '.join(f'`{name}`' for name in key_of(table))})" in text
        assert (f"AUTO PARTITION BY RANGE (date_trunc(`{table.when}`, 'month')) ()" in text) == bool(table.when)
        assert (f'"function_column.sequence_col" = "{table.version}"' in text) == (table.version != table.when)
        assert '"enable_unique_key_merge_on_write" = "true"' in text
        assert [column.name for column in ordered(table)][: len(key_of(table))] == list(key_of(table))


def test_rows_last_as_many_months_as_the_days_need() -> None:
    for days, months in ((0, None), (1, "1"), (28, "1"), (30, "2"), (365, "14")):
        for table in TABLES:
            found = re.search(r'"partition\.retention_count" = "(\d+)"', table_of(table.name, retain_days=days))
            assert (found[1] if found else None) == (months if table.when else None)
            assert bool(Layout("d", retain_days=days).keep_for(table)) == bool(table.when and days)


def test_every_definition_is_in_doris_own_language() -> None:
    warehouse = made({"url": "doris://h/d", "replicas": 2})
    for text in warehouse.definitions(pull=False, broker=""):
        # What sqlglot does not know of Doris; the stand-in reads those two by its own rules.
        known = re.sub(r"AUTO PARTITION BY RANGE \(.*\) \(\)\n", "", text).replace("BUCKETS AUTO", "BUCKETS 8")
        read = sqlglot.parse_one(known, read="doris")
        assert isinstance(read, exp.Create | exp.Insert)
        assert ('"replication_num" = "2"' in text) == text.startswith("CREATE TABLE")


def test_the_pull_set_up_has_the_settings_of_seed_0() -> None:
    texts = made({"url": "doris://h/d"}).definitions(pull=True, broker="kafka://u:secret@k1,k2:9093")
    jobs = [text for text in texts if text.startswith("CREATE ROUTINE LOAD")]
    names = re.findall(r"CREATE ROUTINE LOAD `d`\.`(\w+)` ON `(\w+)`", "\n".join(jobs))
    assert names == [
        ("medical_object_load", "dicom_object_meta"),
        ("medical_state_load", "dicom_state_meta"),
        ("medical_image_load", "dicom_image_meta"),
        ("webapi_access_load", "wado_access_log"),
    ]
    topics = [re.findall(r'"kafka_topic" = "(\w+)"', job)[0] for job in jobs]
    assert topics == ["log_queue", "dicom_state_queue", "dicom_image_queue", "webapi_access_queue"]
    assert "secret" not in "".join(texts)
    for job, table in zip(jobs, TABLES, strict=True):
        assert '"kafka_broker_list" = "k1:9092,k2:9093"' in job
        for setting in ('batch_interval" = "10"', 'batch_rows" = "300000"', 'batch_size" = "209715200"'):
            assert f'"max_{setting}' in job
        assert '"max_error_number" = "1000"' in job
        paths = msgspec.json.decode(re.findall(r'"jsonpaths" = "(.*?[^\\])"', job)[0].replace('\\"', '"'))
        taken = re.findall(r"`(\w+)`", re.findall(r"COLUMNS \((.*)\)", job)[0])
        assert paths == [f"$.{column.name}" for column in ordered(table)]
        assert [name.removeprefix("told_") for name in taken[: len(paths)]] == [path[2:] for path in paths]
    # Messages always tell these, so they are taken as they come.
    assert "`transfer_status`," in jobs[0]
    assert "`transfer_status` =" not in jobs[0]
    assert "`image_status`," in jobs[2]
    assert "`image_status` =" not in jobs[2]


@pytest.mark.parametrize("broker", ["", "amqp://host", "kafka://", "kafka://a:x"])
def test_only_kafka_can_be_pulled_from(broker: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.options\.url"):
        made({}).definitions(pull=True, broker=broker)


async def test_it_opens(options: dict[str, Any]) -> None:
    """The contract tests would only be skipped."""
    async with made(options) as warehouse, made(options) as other:
        await warehouse.ping()
        assert set((await other.counts()).values()) == {0}


async def test_a_newer_schema_is_refused_with_the_version_to_install(options: dict[str, Any]) -> None:
    async with made(options) as warehouse:
        table = warehouse._layout.name(VERSIONS)
        await warehouse._frontends.ask(f"INSERT INTO {table} (number, program) VALUES ({SCHEMA + 1}, '9.8.7')")
    with pytest.raises(ConfigError, match=r"install dicomnode 9\.8\.7 or newer"):
        await made(options).__aenter__()


async def test_without_migrate_nothing_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not up to date"):
        await made(options, migrate=False).__aenter__()
    async with made(options), made(options, migrate=False) as warehouse:
        assert (await warehouse.counts())[OBJECT.name] == 0


async def test_a_column_that_came_later_is_added(options: dict[str, Any]) -> None:
    first = Layout(str(options["url"]).rpartition("/")[2])
    async with made(options) as warehouse:
        await warehouse._frontends.ask(f"ALTER TABLE {first.name(OBJECT.name)} DROP COLUMN source_ae")
    with pytest.raises(ConfigError, match="not up to date"):
        await made(options, migrate=False).__aenter__()
    async with made(options, retain_days=30) as warehouse:
        await warehouse.record(OBJECT, [object_row(1)])
        assert [found.label for found in await warehouse.holdings(Grouping.AE_TITLE, Span(), 9)] == ["CT1"]


async def test_the_definitions_make_what_the_program_needs(options: dict[str, Any]) -> None:
    warehouse = made(options)
    with pytest.raises(ConfigError):
        await made(options, migrate=False).__aenter__()
    async with made(options | {"url": options["url"] + "_other"}) as other:
        for statement in warehouse.definitions(pull=False, broker=""):
            assert not statement.rstrip().endswith(";")
            await other._frontends.ask(statement)
    async with made(options, migrate=False) as opened:
        assert set((await opened.counts()).values()) == {0}


async def test_more_copies_than_backends_are_refused_with_what_to_set(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"warehouse\.options\.replicas"):
        await made(options, replicas=100).__aenter__()


@pytest.mark.parametrize(("user", "password"), [("nobody", "x"), (doris.USER, "hidden"), (doris.USER, "")])
async def test_who_is_not_known_is_refused(options: dict[str, Any], user: str, password: str) -> None:
    wrong = re.sub(r"//.*@", f"//{user}:{password}@", options["url"])
    with pytest.raises(ConfigError, match="refused the user or the password") as caught:
        await made(options, url=wrong).__aenter__()
    assert "hidden" not in str(caught.value)


async def test_an_absent_server_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no frontend"):
        await made({"url": f"doris://127.0.0.1:{free_port()}/d", "query_port": free_port()}).__aenter__()


@pytest.fixture
def own() -> Iterator[doris.Server]:
    with doris.running(own=True) as server:
        assert isinstance(server, doris.Server)
        yield server


async def test_a_server_goes_away(own: doris.Server) -> None:
    async with made({"url": own.url("d"), "query_port": own.mysql}) as warehouse:
        await warehouse.record(OBJECT, [object_row(1)])
        own.stop()
        with pytest.raises(Unavailable):
            await warehouse.record(OBJECT, [object_row(2)])
        with pytest.raises(Unavailable):
            await warehouse.ping()
        with pytest.raises(Unavailable):
            await warehouse.counts()
        own.start()
        with pytest.raises(Unavailable, match="code 1105"):
            await warehouse.ping()  # the stand-in has forgotten everything


@pytest.mark.parametrize(
    "url",
    ["", "doris://", "doris:///d", "doris://h", "doris://h/", "mysql://h/d", "doris://h:x/d", "doris://h,/d", "doris://h/a/b",
     "doris://h/a`b", "doris://h/d?x=1", "doris://h:99999/d"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=r"warehouse\.options\.url"):
        made({"url": url})


def test_addresses() -> None:
    found = cluster("doris+https://us%40er:p%3As%2Fs@fe1,[::1]:8031/my%20d", "other")
    assert (found.scheme, found.user, found.password, found.database) == ("https", "us@er", "p:s/s", "my d")
    assert found.frontends == (Frontend("fe1", 8030), Frontend("::1", 8031))
    assert found.frontends[1].authority == "[::1]:8031"
    assert cluster("doris://h/d", "secret").password == "secret"
    assert cluster("doris://h/d", "").user == "root"


def test_secrets_stay_out_of_sight() -> None:
    options = Options(url="doris://u:hidden@h/d", password="hidden")
    assert "hidden" not in repr(options) + repr(cluster(options.url, options.password))


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warehouse\.options\.ca"):
        made({"url": "doris+https://h/d"}, ca=str(tmp_path / "none.pem"))._trust()


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("2026-01-02T03:04:05.678+00:00", "2026-01-02 03:04:05.678"),
        ("2026-01-02T03:04:05Z", "2026-01-02 03:04:05"),
        ("2026-01-02T03:04:05.678901Z", "2026-01-02 03:04:05.678"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02 01:04:05.000"),
        ("2026-01-02 03:04:05.678+00:00", "2026-01-02 03:04:05.678"),
    ],
)
def test_times_are_in_utc_to_the_millisecond(told: str, kept: str) -> None:
    assert moment(told) == kept


@pytest.mark.parametrize("told", ["CANARY", "2026-13-01T00:00:00Z"[:10], "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_is_told_without_it(told: str) -> None:
    if told.startswith("2026"):
        told += "T"
    with pytest.raises(BadRequest) as caught:
        moment(told)
    assert "CANARY" not in str(caught.value)


def test_rows_have_every_column_of_their_key() -> None:
    (line,) = b"".join(lines(ACCESS, [access_row(1, timestamp="")])).splitlines()
    told = msgspec.json.decode(line)
    assert set(told) == {column.name for column in ACCESS.columns}
    assert told["timestamp"] == "0001-01-01 00:00:00.000"
