"""The schema comes from numbered .sql files, each applied once, by one process at a time, and recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec

from dicomnode.errors import ConfigError
from dicomnode_postgres.connecting import quoted

_LOCK = 0x4449434F4D4D4947  # "DICOMMIG"
_OPTION = "database.options"
_TABLE = """
CREATE TABLE IF NOT EXISTS migration (
    number integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    program text NOT NULL,
    applied timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema: its SQL, and what is done beside it where Citus is."""

    number: int
    name: str
    sql: str
    citus: str

    @property
    def sha256(self) -> str:
        """Return the digest of the step as it was written."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every step that this program knows, in order."""
    folder = files("dicomnode_postgres").joinpath("migrations")
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".sql")}
    return [_migration(name, texts) for name in sorted(texts) if not name.endswith(".citus.sql")]


def _migration(name: str, texts: Mapping[str, str]) -> Migration:
    stem = name.removesuffix(".sql")
    return Migration(int(stem.partition("_")[0]), stem, texts[name], texts.get(f"{stem}.citus.sql", ""))


async def migrate(connection: Any, schema: str, *, apply: bool, citus: str) -> None:
    """Have `schema` at the newest step. Idempotent; in one transaction, under a lock of the database.

    Raises: ConfigError when the schema is newer than this program, was changed, or is older and `apply` is not set.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(f"SET LOCAL search_path = {quoted(schema)}, public")
        known = migrations()
        missing = known[_checked(await _applied(connection, schema), known, schema) :]
        if not missing:
            return
        if not apply:
            raise ConfigError(f"{_OPTION}.migrate", f"the schema {schema} is older than this program", "set it to true")
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quoted(schema)):
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        await connection.execute(_TABLE)
        distribute = await _has_citus(connection, citus)
        for step in missing:
            await _apply(connection, step, distribute=distribute)


async def _applied(connection: Any, schema: str) -> list[Any]:
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{quoted(schema)}.migration"):
        return []
    return list(await connection.fetch("SELECT number, sha256, program FROM migration ORDER BY number"))


def _checked(applied: list[Any], known: list[Migration], schema: str) -> int:
    """Return how many steps are done. Raises: ConfigError."""
    if applied and applied[-1]["number"] > known[-1].number:
        raise ConfigError(
            f"{_OPTION}.schema",
            f"{schema} is at step {applied[-1]['number']}, this program knows {known[-1].number}",
            f"install dicomnode {applied[-1]['program']} or newer",
        )
    for row, step in zip(applied, known, strict=False):
        if (row["number"], row["sha256"]) != (step.number, step.sha256):
            raise ConfigError(f"{_OPTION}.schema", f"step {row['number']} of {schema} is not the one this program has")
    return len(applied)


async def _has_citus(connection: Any, citus: str) -> bool:
    there = bool(await connection.fetchval("SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus')"))
    if citus == "on" and not there:
        raise ConfigError(f"{_OPTION}.citus", "the database has no Citus", "CREATE EXTENSION citus")
    return there and citus != "off"


async def _apply(connection: Any, step: Migration, *, distribute: bool) -> None:
    await connection.execute(step.sql)
    await connection.execute(
        "INSERT INTO migration (number, name, sha256, program) VALUES ($1, $2, $3, $4)",
        step.number,
        step.name,
        step.sha256,
        version("dicomnode"),
    )
    if distribute and step.citus:
        await connection.execute(step.citus)
