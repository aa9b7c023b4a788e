"""One way to open a SQLite file, and one to tell what went wrong with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from dicomnode.errors import ConfigError, Corrupt, Full, PluginError, Unavailable

_BUSY_S = 5.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FORBIDDEN = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_CONTRADICTED = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})


def connect(path: Path, pragmas: Sequence[str] = ()) -> sqlite3.Connection:
    """Return a connection in autocommit mode, in WAL mode, with `pragmas` set; any thread may use it, one at a time."""
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "temp_store = MEMORY", "secure_delete = OFF", *pragmas):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def install(
    connection: sqlite3.Connection,
    schema: str,
    version: int,
    where: tuple[str, Path],
    steps: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Have the tables of the file `schema` of this package, at `version`. Idempotent. Raises: ConfigError.

    `steps` maps an older version to what makes the next one of it.
    """
    option, path = where
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > version:
        raise ConfigError(
            option,
            f"{path} was written by a newer dicomnode (schema {found}, this one knows {version})",
            "run that version, or name another file",
        )
    while found in steps:
        connection.executescript(f"BEGIN IMMEDIATE; {steps[found]}; PRAGMA user_version = {found + 1}; COMMIT")
        found += 1
    if found == version:
        return
    if found or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise ConfigError(option, f"{path} holds something else", "name another file")
    script = files("dicomnode_sqlite").joinpath(schema).read_text(encoding="utf-8")
    connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {version}; COMMIT")


def not_opened(error: sqlite3.Error, option: str, path: Path) -> ConfigError | PluginError:
    """Return what to raise where `path` cannot be opened: what the operator must do."""
    code = _code(error)
    if code in _DAMAGED:
        return ConfigError(
            option, f"{path} is damaged or no SQLite file", "move it away; `dicomnode sweep` makes it anew"
        )
    if code in _LOCKED:
        return Unavailable("sqlite", f"{path} is in use by another process (stop that, or set {option})")
    if code in _FORBIDDEN:
        return ConfigError(option, f"{path} cannot be opened for writing", "see its owner and mode, and its folder's")
    return told(error)


def told(error: Exception) -> PluginError:
    """Return what to raise for a failure at work. Never quotes values."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return Full("sqlite", "no room is left for the database file")
    if code in _LOCKED:
        return Unavailable("sqlite", "the database file is locked by another process")
    if code in _DAMAGED:
        return Unavailable("sqlite", "the database file is damaged; stop the node and move it away")
    if code in _CONTRADICTED:
        # It would fail in the same way each time, and whoever waits for better times would wait for ever.
        return Corrupt("sqlite", "what was to be written contradicts what is there")
    return Unavailable(
        "sqlite", f"the database file failed: {getattr(error, 'sqlite_errorname', type(error).__name__)}"
    )


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # without what extends it
