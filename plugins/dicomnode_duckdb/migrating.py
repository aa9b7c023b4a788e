"""The tables come from numbered .sql files, each applied once, in order, and recorded."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dicomnode.errors import ConfigError
from dicomnode_duckdb.opening import OPTION

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TABLE = """
CREATE TABLE IF NOT EXISTS migration (
    number integer NOT NULL, name varchar NOT NULL, program varchar NOT NULL, applied timestamp NOT NULL
)
"""


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema."""

    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Return every step that this program knows, in order."""
    folder = files("dicomnode_duckdb").joinpath("migrations")
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".sql")}
    return [Migration(int(name.partition("_")[0]), name.removesuffix(".sql"), texts[name]) for name in sorted(texts)]


def migrate(connection: DuckDBPyConnection, path: Path) -> None:
    """Have the file at `path` at the newest step, all of the missing ones or none. Idempotent. Raises: ConfigError."""
    connection.execute("BEGIN")
    try:
        _apply_missing(connection, path)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _apply_missing(connection: DuckDBPyConnection, path: Path) -> None:
    tables = {str(row[0]) for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if tables and "migration" not in tables:
        raise ConfigError(OPTION, f"{path} holds something else", "name another file")
    connection.execute(_TABLE)
    applied = connection.execute("SELECT number, program FROM migration ORDER BY number").fetchall()
    known = migrations()
    if applied and applied[-1][0] > known[-1].number:
        raise ConfigError(
            OPTION,
            f"{path} is at step {applied[-1][0]}, this program knows {known[-1].number}",
            f"install dicomnode {applied[-1][1]} or newer, or name another file",
        )
    for step in known[len(applied) :]:
        connection.execute(step.sql)
        connection.execute(
            "INSERT INTO migration VALUES (?, ?, ?, now()::timestamp)", [step.number, step.name, version("dicomnode")]
        )
