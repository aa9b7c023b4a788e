"""The index in PostgreSQL (13 or newer), for any number of nodes, with or without PgBouncer or Citus."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from dicomnode.errors import BadRequest, ConfigError, Unavailable
from dicomnode.model.entry import Counts, Entry, Fate, Policy
from dicomnode.model.query import Found, Location, Query
from dicomnode.ports.database import Database
from dicomnode_postgres.connecting import Pool, Retry, Settings, told
from dicomnode_postgres.finding import ANSWER, JOINED, statement
from dicomnode_postgres.indexing import Batch, More, buckets
from dicomnode_postgres.matching import Parameters
from dicomnode_postgres.migrating import migrate
from dicomnode_postgres.tables import clean

_OLDEST = 130000
_SERVER = """
SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), pg_backend_pid()
"""
_ATTEMPTS = 12
_PAUSE_S = 0.02  # before the second attempt, on average; longer before each further one
_CHUNK = 1000
_WHERE_IT_IS = "key, {}, transfer_syntax_uid, size, data_set_offset, sha256, number_of_frames"
_SERVED = _WHERE_IT_IS.format("StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, SOPClassUID")
_LOCATE = f"SELECT {_SERVED} FROM {JOINED} WHERE "  # noqa: S608
_PAGE = "WHERE key > $1::text AND key >= $2::text AND key < $3::text ORDER BY key LIMIT $4::bigint"
_KEYS = f"""
SELECT {_SERVED} FROM (SELECT * FROM instance {_PAGE}) AS instance
    JOIN series ON series.tenant = instance.tenant AND series.id = instance.series
    JOIN study ON study.tenant = series.tenant AND study.id = series.study
UNION ALL
SELECT {_SERVED} FROM (SELECT * FROM aside {_PAGE}) AS aside
ORDER BY key LIMIT $4::bigint
"""  # noqa: S608
_COUNTS = """
SELECT (SELECT count(*) FROM patient), (SELECT count(*) FROM study), (SELECT count(*) FROM series),
    (SELECT coalesce(sum(instances), 0)::bigint FROM content),
    ((SELECT coalesce(sum(bytes), 0) FROM content) + (SELECT coalesce(sum(size), 0) FROM aside))::bigint
"""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: postgresql://user:password@host:5432/database?sslmode=verify-full, as libpq reads it.

    What it leaves out comes from `password` or the environment (PGPASSWORD, PGPASSFILE …). `schema` holds the tables.
    `pool`: connections at most. `connect_timeout_s`, `statement_timeout_s`: seconds. `prepared_statements`: "auto"
    tells by itself whether a pooler is between; "on" and "off" say so. `migrate`: bring the schema up to date on
    start. `citus`: "auto" distributes the tables where the extension is, "on" demands it, "off" does not.
    """

    url: str = "postgresql://localhost:5432/dicomnode"
    password: str = ""
    schema: str = "dicomnode"
    pool: int = 8
    connect_timeout_s: float = 10.0
    statement_timeout_s: float = 30.0
    prepared_statements: Literal["auto", "on", "off"] = "auto"
    migrate: bool = True
    citus: Literal["auto", "on", "off"] = "auto"

    def __repr__(self) -> str:
        return f"Options(schema={self.schema!r}, pool={self.pool})"  # the rest may hold secrets


class PostgresDatabase(Database):
    """A schema of a PostgreSQL database, shared with whoever else uses it."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._pool = Pool(
            Settings(
                url=options.url,
                password=options.password,
                schema=options.schema,
                pool=options.pool,
                connect_s=options.connect_timeout_s,
                statement_s=options.statement_timeout_s,
                prepared=options.prepared_statements,
            )
        )

    async def __aenter__(self) -> Self:
        connection = await self._pool.connect()
        try:
            direct = await self._prepare(connection)
        finally:
            connection.terminate()
        await self._pool.open(direct=direct)
        return self

    async def _prepare(self, connection: Any) -> bool:
        """Bring the schema up to date; return whether nothing is between us and the server."""
        options = self._options
        try:
            number, encoding, process = await connection.fetchrow(_SERVER)
            _check_server(number, encoding)
            await migrate(connection, options.schema, apply=options.migrate, citus=options.citus)
        except ConfigError:
            raise
        except Exception as error:
            raise told(error) from error
        # A pooler makes up the number that it tells a client.
        return bool(process == connection.get_server_pid())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    async def ping(self) -> None:
        """Return when the server answers and the tables are there. Raises: Unavailable."""
        await self._fetch("SELECT number FROM migration LIMIT 1")

    async def _fetch(self, text: str, *values: object) -> list[Any]:
        async with self._pool.transaction() as connection:
            return list(await connection.fetch(text, *values))

    async def index(self, entries: Sequence[Entry], policy: Policy) -> Sequence[Fate]:
        """Take in `entries` in one transaction; return the fate of each; see Database."""
        if not entries:
            return ()
        held, last = buckets(entries), None
        for attempt in range(_ATTEMPTS):
            try:
                async with self._pool.transaction(write=True) as connection:
                    return await Batch(connection, policy, held).index(entries)
            except More as more:
                held = more.buckets
            except Retry as error:
                last = error
                await asyncio.sleep(_PAUSE_S * (attempt + 1) * 2 * random.random())  # noqa: S311
        raise Unavailable("postgres", "other transactions came between too often") from last

    async def find(self, query: Query) -> Sequence[Found]:
        """Return up to `query.limit` entities, in the order of `Found.cursor`. Raises: BadRequest, Unavailable."""
        text, values = statement(query)
        return list(map(ANSWER[query.level], await self._fetch(text, *values)))

    async def locate(self, tenant: str, study_uid: str, series_uid: str = "", sop_uid: str = "") -> Sequence[Location]:
        """Return the current object of each instance of the study, series or instance, in order; see Database."""
        if not study_uid and not sop_uid:
            raise BadRequest("a study or an instance is needed")
        parameters = Parameters()
        asked = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_uid}
        conditions = [f"study.tenant = {parameters.mark(clean(tenant))}"]
        conditions += [f"{column} = {parameters.mark(clean(uid))}" for column, uid in asked.items() if uid]
        text = f"{_LOCATE}{' AND '.join(conditions)} ORDER BY series.place, instance.place"
        return _locations(await self._fetch(text, *parameters))

    async def keys(self, prefix: str = "") -> AsyncIterator[Location]:
        """Yield every kept object whose key starts with `prefix`, in the order of keys; a transaction a page."""
        last, end = "", prefix + "\U0010ffff"
        while chunk := _locations(await self._fetch(_KEYS, last, prefix, end, _CHUNK)):
            for location in chunk:
                yield location
            last = chunk[-1].key

    async def counts(self) -> Counts:
        """Return how much is known, over all tenants."""
        return Counts(*(await self._fetch(_COUNTS))[0])


def _check_server(number: int, encoding: str) -> None:
    if number < _OLDEST or encoding != "UTF8":
        raise ConfigError(
            "database.options.url",
            f"the server is of version {number // 10_000}, its texts are {encoding}",
            "PostgreSQL 13 or newer is needed, and a database in UTF8",
        )


def _locations(rows: Sequence[Any]) -> list[Location]:
    return [Location(*row) for row in rows]


_: type[Database] = PostgresDatabase
