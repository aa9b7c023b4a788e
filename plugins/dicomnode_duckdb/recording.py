"""Rows go in as lines of JSON that DuckDB reads by itself, and replace what they repeat, in one transaction.

No index tells what a row repeats: DuckDB's indexes have lost entries, which makes the whole file fail for good, and
with them the file is several times as large. Comparing the key columns costs little, because rows of one time stand
together and DuckDB knows the least and greatest value of each stretch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from dicomnode.model.warehouse import TABLES, Column, Kind, Table
from dicomnode_duckdb.opening import driver_error

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_AT_ONCE = 10_000
_ENCODED_AT_ONCE = 500  # a millisecond or less, in which no other thread of this process gets on
_LONGEST_LINE = 16 * 1024 * 1024  # DuckDB's own default
_TYPES = {Kind.INTEGER: "bigint", Kind.NUMBER: "double", Kind.DATE: "date", Kind.TIME: "timestamp"}


class _Statements:
    """What is done for each batch of one table; `arriving` is the batch, `met` is what stands there of its keys.

    All of it is made of names of ours.
    """

    def __init__(self, table: Table, source: str) -> None:
        name, version = f"main.{table.name}", table.version
        values = ", ".join(_value(column) for column in table.columns)
        told = ", ".join(f"'{column.name}': 'varchar'" for column in table.columns)
        lines = f"format = 'newline_delimited', maximum_object_size = $longest, columns = {{{told}}}"
        newest = f"row_number() OVER (PARTITION BY {', '.join(table.key)} ORDER BY {version} DESC NULLS LAST) = 1"
        same = " AND ".join(f"held.{part} = arriving.{part}" for part in table.key)
        stays = f"coalesce(held.{version} >= arriving.{version}, held.{version} IS NOT NULL)"
        self.arrive = f"""
CREATE OR REPLACE TEMP TABLE arriving AS SELECT {values} FROM read_json('{source}', {lines}) QUALIFY {newest}
"""  # noqa: S608
        self.meet = f"""
CREATE OR REPLACE TEMP TABLE met AS
SELECT held.rowid AS held, arriving.rowid AS arriving, {stays} AS stays FROM {name} held JOIN arriving ON {same}
"""  # noqa: S608
        self.replace = (
            "DELETE FROM arriving WHERE rowid IN (SELECT arriving FROM met WHERE stays)",
            f"DELETE FROM {name} WHERE rowid IN (SELECT held FROM met WHERE NOT stays)",  # noqa: S608
        )
        self.keep = f"INSERT INTO {name} SELECT * FROM arriving"  # noqa: S608


def _value(column: Column) -> str:
    """Return what is kept of what a line says: what is no number, date or time is as if it had not been said."""
    name = f'"{column.name}"'
    if column.kind is Kind.TEXT:
        return f"coalesce({name}, '') AS {name}"
    cast = f"try_cast({name} AS {_TYPES[column.kind]})"
    return f"coalesce({cast}, 0) AS {name}" if column.kind is Kind.INTEGER else f"{cast} AS {name}"


class Recorder:
    """Record rows over one connection, for one thread."""

    def __init__(self, connection: DuckDBPyConnection, folder: Path, retain_days: int) -> None:
        self._connection = connection
        self._retain_days = retain_days
        self._lines, source = _scratch(folder)
        self._statements = {table.name: _Statements(table, source) for table in TABLES}
        self._encode = msgspec.json.Encoder().encode_lines

    def close(self) -> None:
        """Give back what lines are handed over in."""
        self._lines.close()

    def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Have `rows` durable, so many in a transaction that memory stays bounded."""
        for start in range(0, len(rows), _AT_ONCE):
            self._hand_over(rows[start : start + _AT_ONCE], self._statements[table.name])

    def _hand_over(self, rows: Sequence[msgspec.Struct], statements: _Statements) -> None:
        longest = _LONGEST_LINE
        try:
            self._lines.seek(0)
            self._lines.truncate()
            for start in range(0, len(rows), _ENCODED_AT_ONCE):
                lines = self._encode(rows[start : start + _ENCODED_AT_ONCE])
                longest = max(longest, len(lines))
                self._write(lines)
            self._in_one_transaction(statements, longest)
        finally:
            self._lines.truncate(0)

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            left = left[self._lines.write(left) :]

    def _in_one_transaction(self, statements: _Statements, longest: int) -> None:
        execute = self._connection.execute
        execute("BEGIN")
        try:
            execute(statements.arrive, {"longest": longest})
            (met,) = execute(statements.meet).fetchone() or (0,)
            if met:
                for statement in statements.replace:
                    execute(statement)
            execute(statements.keep)
            execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        with suppress(driver_error()):  # the first error is the one that is told
            self._connection.execute("ROLLBACK")

    def drop_old(self) -> None:
        """Drop the rows of what happened more than `retain_days` ago, unless that is 0."""
        if not self._retain_days:
            return
        oldest = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=self._retain_days)
        for table in TABLES:
            if table.when:
                self._connection.execute(f"DELETE FROM main.{table.name} WHERE {table.when} < ?", [oldest])  # noqa: S608


def _scratch(folder: Path) -> tuple[IO[bytes], str]:
    """Return a file for lines on their way, and its path: in memory where the system has that, else in `folder`."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        file = os.fdopen(os.memfd_create("dicomnode-rows", os.MFD_CLOEXEC), "wb", buffering=0)
        return file, f"/proc/self/fd/{file.fileno()}"
    named = tempfile.NamedTemporaryFile(dir=folder, suffix=".rows", buffering=0)  # noqa: SIM115 -- closed by the recorder
    return named, str(named.name).replace("'", "''")
