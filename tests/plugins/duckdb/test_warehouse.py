"""What is peculiar to DuckDB: one file, its schema, what it forgets, and what happens when the file does not do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from dicomnode.errors import ConfigError, Corrupt, Full, PluginMissing, Unavailable
from dicomnode.model.warehouse import ACCESS, OBJECT, STATE, TABLES, Grouping, Kind, Span
from dicomnode_duckdb import opening, recording
from dicomnode_duckdb.opening import told
from dicomnode_duckdb.warehouse import DuckDbWarehouse, Options
from tests.contracts.rows import HARD_TEXTS, access_row, image_row, object_row, state_row


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a really full disk was not tested: mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(disk)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a really full disk was not tested: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def rows_of(folder: Path, text: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(folder / "warehouse.duckdb") as connection:
        return connection.execute(text).fetchall()


async def rest(walk: AsyncIterator[str]) -> list[str]:
    return [key async for key in walk]


async def recorded(folder: Path, *rows: msgspec.Struct, options: Options | None = None) -> None:
    async with DuckDbWarehouse(options or Options(), folder) as warehouse:
        await warehouse.record(OBJECT, rows)


async def test_the_tables_are_those_of_the_model(tmp_path: Path) -> None:
    await recorded(tmp_path)
    types = {"VARCHAR": Kind.TEXT, "BIGINT": Kind.INTEGER, "DOUBLE": Kind.NUMBER, "DATE": Kind.DATE}
    for table in TABLES:
        found = rows_of(tmp_path, f"SELECT column_name, column_type FROM (DESCRIBE {table.name})")
        assert [(name, types.get(kind, Kind.TIME)) for name, kind in found] == [
            (column.name, column.kind) for column in table.columns
        ]


async def test_every_column_is_kept_as_it_was_told(tmp_path: Path) -> None:
    row = image_row(
        7,
        content_date="1969-12-31",
        slice_thickness=0.1,
        slice_location=-1e300,
        instance_number=-(2**63),
        image_type="A\\B",
    )
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        await warehouse.record(TABLES[2], [row])
        await warehouse.record(ACCESS, [access_row(n, headers=text) for n, text in enumerate(HARD_TEXTS)])
    (kept,) = rows_of(tmp_path, "SELECT * FROM dicom_image_meta")
    told = msgspec.structs.asdict(row)
    for column, value in zip(TABLES[2].columns, kept, strict=True):
        if column.kind is Kind.TIME:
            assert value.isoformat() == "2026-01-02T03:04:05.678000"
        else:
            assert (value.isoformat() if column.kind is Kind.DATE else value) == told[column.name], column.name
    assert sorted(text for (text,) in rows_of(tmp_path, "SELECT headers FROM wado_access_log")) == sorted(HARD_TEXTS)


async def test_what_is_no_number_date_or_time_is_not_known(tmp_path: Path) -> None:
    odd = object_row(study_date="20260101", created_time="yesterday")
    odd = msgspec.structs.replace(odd, file_size=2**63, number_of_frames="many")
    await recorded(tmp_path, odd)
    text = "SELECT study_date, created_time, file_size, number_of_frames FROM dicom_object_meta"
    assert rows_of(tmp_path, text) == [(None, None, 0, 0)]


async def test_it_is_there_after_closing_and_with_other_options(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.duckdb"
    await recorded(tmp_path, object_row(1), options=Options(path=str(file)))
    assert not (tmp_path / "warehouse.duckdb").exists()
    async with DuckDbWarehouse(Options(path=str(file), memory_mib=64, threads=2), tmp_path) as warehouse:
        assert (await warehouse.counts())[OBJECT.name] == 1


async def test_a_schema_of_a_newer_program_is_refused_with_its_version(tmp_path: Path) -> None:
    await recorded(tmp_path)
    rows_of(tmp_path, "INSERT INTO migration VALUES (99, '0099_more', '7.8.9', now()::timestamp)")
    with pytest.raises(ConfigError, match=r"is at step 99, this program knows 1 \(install dicomnode 7.8.9 or newer"):
        await recorded(tmp_path)


async def test_steps_are_applied_once_and_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicomnode_duckdb import migrating

    first, *_ = migrating.migrations()
    wrong = migrating.Migration(2, "0002_wrong", "ALTER TABLE wado_access_log ADD COLUMN more varchar; SELECT nothing")
    right = migrating.Migration(2, "0002_more", "ALTER TABLE wado_access_log ADD COLUMN more varchar")
    await recorded(tmp_path, object_row(1))
    monkeypatch.setattr(migrating, "migrations", lambda: [first, wrong])
    with pytest.raises(Corrupt):
        await recorded(tmp_path)
    assert rows_of(tmp_path, "SELECT number FROM migration") == [(1,)]
    assert rows_of(tmp_path, "SELECT count(*) FROM duckdb_columns() WHERE column_name = 'more'") == [(0,)]
    monkeypatch.setattr(migrating, "migrations", lambda: [first, right])
    for _again in range(2):
        async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
            assert (await warehouse.counts())[OBJECT.name] == 1
    assert rows_of(tmp_path, "SELECT number, name FROM migration") == [(1, "0001_rows"), (2, "0002_more")]


@pytest.mark.parametrize("content", [b"something else", bytes(8192), b""])
async def test_a_file_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "warehouse.duckdb"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"warehouse.options.path: .* is damaged or no DuckDB file \(move it away"):
        await recorded(tmp_path)
    assert file.read_bytes() == content


async def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    await recorded(tmp_path, *(object_row(number) for number in range(100)))
    file = tmp_path / "warehouse.duckdb"
    data = bytearray(file.read_bytes())
    data[5000:9000] = bytes(4000)
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged or no DuckDB file"):
        await recorded(tmp_path)


async def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    rows_of(tmp_path, "CREATE TABLE sales (euros integer)")
    with pytest.raises(ConfigError, match="holds something else"):
        await recorded(tmp_path)
    assert rows_of(tmp_path, "SELECT table_name FROM duckdb_tables()") == [("sales",)]


async def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "not" / "there.duckdb"):
        with pytest.raises(ConfigError, match=r"warehouse.options.path"):
            await recorded(tmp_path, options=Options(path=str(path)))


async def test_a_file_that_another_process_has_is_told(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    program = f"import duckdb, sys; held = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Unavailable, match="is in use by another process"):
            await recorded(tmp_path)
        holder.communicate("")
    await recorded(tmp_path, object_row(1))


async def test_a_missing_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(PluginMissing, match="pip install duckdb"):
        await DuckDbWarehouse(Options(), tmp_path).__aenter__()


def test_the_driver_is_imported_only_where_a_file_is_opened() -> None:
    program = (
        "import sys, dicomnode_duckdb.warehouse as w; from pathlib import Path; w.DuckDbWarehouse(w.Options(), Path())"
    )
    done = subprocess.run([sys.executable, "-c", f"{program}; sys.exit('duckdb' in sys.modules)"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("options", [{"memory_mib": 1}, {"threads": 0}, {"retain_days": -1}, {"thread": 1}])
def test_options_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, Options)


async def test_what_is_older_than_retained_is_forgotten_and_what_the_archive_says_is_not(tmp_path: Path) -> None:
    old, new = (datetime.now(UTC) - timedelta(days=days, minutes=-5) for days in (11, 10))
    rows = [object_row(n, created_time=when.isoformat(timespec="milliseconds")) for n, when in enumerate((old, new))]
    asked = [access_row(n, timestamp=when.isoformat(timespec="milliseconds")) for n, when in enumerate((old, new))]
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        await warehouse.record(OBJECT, rows)
        await warehouse.record(ACCESS, asked)
        await warehouse.record(STATE, [state_row(created_time="2001-01-01T00:00:00.000Z")])
    async with DuckDbWarehouse(Options(retain_days=10), tmp_path) as warehouse:
        await warehouse.record(OBJECT, rows[1:])
        assert list((await warehouse.counts()).values()) == [1, 1, 0, 1]
        assert await rest(warehouse.keys()) == [rows[1].file_path]


async def test_a_series_told_of_again_and_again_does_not_grow_the_file(tmp_path: Path) -> None:
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        for number in range(20):
            time_told = f"2026-01-02T03:04:{number:02}.000Z"
            rows = [state_row(f"1.{n}.1", updated_time=time_told, patient_name="x" * 1000) for n in range(1000)]
            await warehouse.record(STATE, rows)
    assert rows_of(tmp_path, "SELECT count(*), min(updated_time) FROM dicom_state_meta")[0][0] == 1000
    assert (tmp_path / "warehouse.duckdb").stat().st_size < 5_000_000, "20 MB went through it"


async def test_questions_are_answered_while_keys_are_walked_and_rows_come(tmp_path: Path) -> None:
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        await warehouse.record(OBJECT, [object_row(number) for number in range(3000)])
        seen = 0
        async for key in warehouse.keys():
            if seen % 1000 == 0:
                await warehouse.record(OBJECT, [object_row(10_000 + seen)])
                assert (await warehouse.holdings(Grouping.AE_TITLE, Span(), 1))[0].objects > 3000
            assert key
            seen += 1
        assert seen == 3000, "they are those of one moment"


async def test_a_walk_that_is_left_or_outlives_the_warehouse_does_no_harm(tmp_path: Path) -> None:
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        await warehouse.record(OBJECT, [object_row(number) for number in range(1500)])
        async with aclosing(warehouse.keys()) as left:  # type: ignore[type-var]
            assert await anext(left)
        walk = warehouse.keys()
        assert await anext(walk)
    with pytest.raises(Unavailable, match="closed"):
        await rest(walk)
    with pytest.raises(Unavailable, match="closed"):
        await warehouse.ping()


async def test_the_loop_goes_on_while_rows_are_recorded(tmp_path: Path) -> None:
    rows = [object_row(number) for number in range(10_000)]
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        recording_it = asyncio.create_task(warehouse.record(OBJECT, rows))
        turns = 0
        while not recording_it.done():
            await asyncio.sleep(0.001)
            turns += 1
        await recording_it
    assert turns >= 10


def test_errors_say_whose_fault_it_is() -> None:
    assert isinstance(told(duckdb.OutOfMemoryException("could not allocate")), Unavailable)
    assert isinstance(told(duckdb.IOException("write: No space left on device")), Full)
    assert isinstance(told(duckdb.ConversionException("Doe^John is no number")), Corrupt)
    assert "Doe" not in str(told(duckdb.ConversionException("Doe^John is no number")))
    assert isinstance(told(duckdb.TransactionException("conflict")), Unavailable)
    assert "is damaged" in str(told(duckdb.Error("Corrupt database file: computed checksum 1 does not match 2")))
    assert isinstance(told(OSError(28, "No space left on device")), Full)


async def test_what_the_driver_quotes_comes_into_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise duckdb.ConversionException("Could not convert string 'Doe^John' to INT64")

    monkeypatch.setattr(recording.Recorder, "record", fails)
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        with pytest.raises(Corrupt) as caught:
            await warehouse.record(OBJECT, [object_row()])
    assert "Doe" not in "".join(traceback.format_exception(caught.value))


async def test_after_a_failure_that_duckdb_does_not_go_on_from_the_file_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        await warehouse.record(OBJECT, [object_row(number) for number in range(1500)])
        walk = warehouse.keys()
        assert await anext(walk)

        def fails(*_: object) -> None:
            raise duckdb.FatalException("FATAL Error: database has been invalidated")

        with monkeypatch.context() as patched:
            patched.setattr(recording.Recorder, "record", fails)
            with pytest.raises(Unavailable, match="FatalException"):
                await warehouse.record(OBJECT, [object_row(1)])
        with monkeypatch.context() as patched:
            damaged = ConfigError(opening.OPTION, "it is damaged")
            patched.setattr("dicomnode_duckdb.warehouse.opened", lambda *_: (_ for _ in ()).throw(damaged))
            with pytest.raises(Unavailable, match="it is damaged"):
                await warehouse.ping()
        await asyncio.gather(warehouse.record(OBJECT, [object_row(9999)]), warehouse.counts(), warehouse.ping())
        assert (await warehouse.counts())[OBJECT.name] == 1501
        with pytest.raises(Unavailable, match="opened anew"):
            await rest(walk)


def test_a_memory_file_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    folder = tmp_path / "it's here"
    folder.mkdir()

    async def main() -> None:
        await recorded(folder, object_row(1))

    asyncio.run(main())
    assert rows_of(folder, "SELECT count(*) FROM dicom_object_meta") == [(1,)]
    assert {file.name for file in folder.iterdir()} == {"warehouse.duckdb"}


async def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    kept = refused = 0
    async with DuckDbWarehouse(Options(), small_disk) as warehouse:
        ballast.write_bytes(bytes(3 * 1024 * 1024))
        while refused < 3:
            rows = [object_row(kept + number, file_path=f"k/{number:0900}/{kept}") for number in range(2000)]
            try:
                await warehouse.record(OBJECT, rows)
                kept += len(rows)
            except Full:
                refused += 1
                assert (await warehouse.counts())[OBJECT.name] == kept
        assert kept
        ballast.unlink()
        await warehouse.record(OBJECT, [object_row(kept)])
    async with DuckDbWarehouse(Options(), small_disk) as warehouse:
        assert (await warehouse.counts())[OBJECT.name] == kept + 1


async def test_rows_come_in_fast_enough(tmp_path: Path) -> None:
    batches = [[object_row(start + number) for number in range(10_000)] for start in (0, 10_000, 20_000)]
    async with DuckDbWarehouse(Options(), tmp_path) as warehouse:
        began = time.process_time()
        for batch in batches:
            await warehouse.record(OBJECT, batch)
        rate = 30_000 / (time.process_time() - began)
    assert rate > 10_000, "20,000 rows a second and core are wanted; half of it may go to a busy machine"
