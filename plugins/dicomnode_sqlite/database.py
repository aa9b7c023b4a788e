"""The index in one SQLite file: one thread writes, a few read beside it and see whole transactions only."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from dicomnode.errors import BadRequest, Unavailable
from dicomnode.model.entry import Counts, Entry, Fate, Policy
from dicomnode.model.query import Found, Location, Query
from dicomnode.ports.database import Database
from dicomnode.ports.offload import Threads
from dicomnode_sqlite.connect import connect, install, not_opened, told
from dicomnode_sqlite.finding import ANSWER, statement
from dicomnode_sqlite.indexing import Indexer
from dicomnode_sqlite.matching import name_fits

T = TypeVar("T")

_OPTION = "database.options.path"
_CHUNK = 1000
_STEPS = 50_000  # between two looks at the clock: about a millisecond
_WHERE_IT_IS = "key, {}, transfer_syntax_uid, size, data_set_offset, sha256, number_of_frames"
_SERVED = _WHERE_IT_IS.format("StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, SOPClassUID")
_JOINED = "study JOIN series ON series.study = study.id JOIN instance ON instance.series = series.id"
_LOCATE = f"SELECT {_SERVED} FROM {_JOINED} WHERE study.tenant = ?"  # noqa: S608
_KEYS = f"""
SELECT {_SERVED} FROM instance JOIN series ON series.id = instance.series JOIN study ON study.id = series.study
    WHERE key > ?1 AND key >= ?2 AND key < ?3
UNION ALL
SELECT {_SERVED} FROM aside WHERE key > ?1 AND key >= ?2 AND key < ?3
ORDER BY key LIMIT ?4
"""  # noqa: S608
_COUNTS = """
SELECT (SELECT count(*) FROM patient), (SELECT count(*) FROM study), (SELECT count(*) FROM series),
    (SELECT coalesce(sum(instances), 0) FROM content),
    (SELECT coalesce(sum(bytes), 0) FROM content) + (SELECT coalesce(sum(size), 0) FROM aside)
"""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: the file (default `<data_dir>/index.sqlite`). `cache_mib`: memory for pages, of all connections together.

    `readers`: how many queries run at once. `query_timeout_s`: a longer query is broken off.
    """

    path: str = ""
    cache_mib: int = 64
    readers: int = 2
    query_timeout_s: float = 30.0


class SqliteDatabase(Database):
    """A file with the index."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._path = Path(options.path) if options.path else data_dir / "index.sqlite"
        self._writer = Threads(1, "index-writer")
        self._readers = Threads(max(1, options.readers), "index-reader")
        self._free: list[sqlite3.Connection] = []

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        self._writer.start()
        self._readers.start()
        return self

    def _open(self) -> None:
        readers = max(1, self._options.readers)
        writing, reading = self._options.cache_mib * 512, self._options.cache_mib * 512 // readers
        opened: list[sqlite3.Connection] = []
        try:
            opened.append(connect(self._path, ("synchronous = FULL", f"cache_size = -{max(1024, writing)}")))
            install(opened[0], "database.sql", 1, (_OPTION, self._path))
            for _ in range(readers):
                reader = connect(self._path, ("query_only = ON", f"cache_size = -{max(1024, reading)}"))
                opened.append(reader)
                reader.create_function("name_fits", 2, name_fits, deterministic=True)
        except BaseException as error:
            for connection in opened:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise not_opened(error, _OPTION, self._path) from error
            raise
        self._connection, self._free = opened[0], opened[1:]
        self._indexer = Indexer(self._connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writer.close()
        await self._readers.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for connection in (*self._free, self._connection):  # the writer last: it folds the log into the file
            connection.close()

    async def ping(self) -> None:
        """Return when the file can be read and written. Raises: Unavailable, Full."""
        await self._write(self._ping)

    def _ping(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("ROLLBACK")

    async def _write(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await self._writer.run(function, *args)
        except sqlite3.Error as error:
            raise told(error) from error

    async def _read(self, function: Callable[..., T], *args: object) -> T:
        """Return `function(connection, *args)`, called in a reader's thread and broken off when it takes too long."""
        try:
            return await self._readers.run(self._with_connection, function, args)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise Unavailable("sqlite", "the query took too long; ask for less, or set query_timeout_s") from error
            raise told(error) from error

    def _with_connection(self, function: Callable[..., T], args: Sequence[object]) -> T:
        connection = self._free.pop()  # there are as many as threads
        ends = time.monotonic() + self._options.query_timeout_s
        connection.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
        try:
            return function(connection, *args)
        finally:
            self._free.append(connection)

    async def index(self, entries: Sequence[Entry], policy: Policy) -> Sequence[Fate]:
        """Take in `entries` in one transaction; return the fate of each; see Database."""
        return await self._write(self._indexer.index, entries, policy) if entries else ()

    async def find(self, query: Query) -> Sequence[Found]:
        """Return up to `query.limit` entities, in the order of `Found.cursor`. Raises: BadRequest, Unavailable."""
        text, values = statement(query)
        return await self._read(_find, query, text, values)

    async def locate(self, tenant: str, study_uid: str, series_uid: str = "", sop_uid: str = "") -> Sequence[Location]:
        """Return the current object of each instance of the study, series or instance, in order; see Database."""
        if not study_uid and not sop_uid:
            raise BadRequest("a study or an instance is needed")
        text, values = _LOCATE, [tenant]
        for column, uid in (
            ("study.StudyInstanceUID = ?", study_uid),
            ("series.SeriesInstanceUID = ?", series_uid),
            ("instance.tenant = study.tenant AND instance.SOPInstanceUID = ?", sop_uid),
        ):
            if uid:
                text += f" AND {column}"
                values.append(uid)
        text += " ORDER BY series.place, instance.place"
        return await self._read(_locations, text, values)

    async def keys(self, prefix: str = "") -> AsyncIterator[Location]:
        """Yield every kept object whose key starts with `prefix`, in the order of keys."""
        last, end = "", prefix + "\U0010ffff"
        while chunk := await self._read(_locations, _KEYS, (last, prefix, end, _CHUNK)):
            for location in chunk:
                yield location
            last = chunk[-1].key

    async def counts(self) -> Counts:
        """Return how much is known, over all tenants."""
        return Counts(*await self._read(_one_row, _COUNTS))


def _find(connection: sqlite3.Connection, query: Query, text: str, values: Sequence[object]) -> list[Found]:
    return list(map(ANSWER[query.level], connection.execute(text, values).fetchall()))


def _locations(connection: sqlite3.Connection, text: str, values: Sequence[object]) -> list[Location]:
    return [Location(*row) for row in connection.execute(text, values).fetchall()]


def _one_row(connection: sqlite3.Connection, text: str) -> tuple[Any, ...]:
    return tuple(connection.execute(text).fetchone())


_: type[Database] = SqliteDatabase
