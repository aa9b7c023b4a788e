"""One way to reach the server: a bounded pool, and transactions that leave nothing behind in their session.

All settings are local to a transaction, so that the node works behind PgBouncer in transaction mode too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import msgspec

from dicomnode.errors import ConfigError, Full, NodeError, PluginError, Unavailable

_NAME = "postgres"
# asyncpg calls it internal when a session is ended under it between two messages.
_AWAY: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_CACHED = 100  # statements a connection remembers; ours are few, but a query may be put in many ways

# What a batch looks up, it looks up by keys, in the order it is written. Left to itself the server reads whole tables,
# or joins from the patients on, until it first takes statistics: 350 rows/s instead of thousands.
_BY_KEYS = (
    "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL join_collapse_limit = 1; "
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
)
_AS_ASKED = "SET LOCAL plan_cache_mode = force_custom_plan"  # a good plan for one name is none for another


class Settings(msgspec.Struct, frozen=True):
    """How to connect; see `database.Options`."""

    url: str
    password: str
    schema: str
    pool: int
    connect_s: float
    statement_s: float
    prepared: str

    def __repr__(self) -> str:
        return "Settings(…)"


class Pool:
    """Connections to one database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: Any = None
        local = (
            f"SET LOCAL search_path = {quoted(settings.schema)}; SET LOCAL jit = off; "
            f"SET LOCAL statement_timeout = {max(1, int(settings.statement_s * 1000))}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {max(1, int(settings.statement_s * 2000))}"
        )
        self._write = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {local}; {_BY_KEYS}"
        self._read = f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {local}; {_AS_ASKED}"

    async def connect(self) -> Any:
        """Return a connection of its own, which prepares nothing by name. Raises: ConfigError, Unavailable."""
        try:
            return await asyncpg.connect(**self._arguments(), statement_cache_size=0)
        except (*_AWAY, asyncpg.PostgresError, ValueError) as error:
            raise not_opened(error) from error

    async def open(self, *, direct: bool) -> None:
        """Have connections ready; `direct`: every one of them stays with one session of the server."""
        named = direct if self._settings.prepared == "auto" else self._settings.prepared == "on"
        self._pool = await asyncpg.create_pool(
            **self._arguments(),
            min_size=0,
            max_size=max(1, self._settings.pool),
            statement_cache_size=_CACHED if named else 0,
            reset=_nothing,
        )

    def _arguments(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "dsn": settings.url,
            "timeout": settings.connect_s,
            "command_timeout": settings.statement_s + 2.0,
            "server_settings": {"application_name": "dicomnode"},
            **({"password": settings.password} if settings.password else {}),
        }

    async def close(self) -> None:
        """Leave the server."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(self._settings.connect_s):
                await self._pool.close()
        except (*_AWAY, asyncpg.PostgresError):
            self._pool.terminate()

    @asynccontextmanager
    async def transaction(self, *, write: bool = False) -> AsyncIterator[Any]:
        """Have a connection in a transaction, committed at the end. Raises: Unavailable, Full, and what is in Retry."""
        try:
            connection = await self._pool.acquire(timeout=self._settings.connect_s)
        except (*_AWAY, asyncpg.PostgresError) as error:
            raise told(error) from error
        try:
            await connection.execute(self._write if write else self._read)
            yield connection
            await connection.execute("COMMIT")
        except OURS:
            await _rolled_back(connection)
            raise
        except asyncpg.PostgresError as error:
            await _rolled_back(connection)
            raise told(error) from error
        except _AWAY as error:
            _ended(connection)
            raise told(error) from error
        except BaseException:
            _ended(connection)  # whoever waited has gone: the server gives up what it did by itself
            raise
        finally:
            await self._pool.release(connection)


class Again(Exception):
    """This transaction must be begun anew."""


# Another transaction has come between: begin anew.
Retry: tuple[type[Exception], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
    Again,
)
# What goes on to the caller as it is.
OURS: tuple[type[Exception], ...] = (*Retry, NodeError)


async def _nothing(connection: Any) -> None:
    """Leave a session as it is: nothing of ours outlives a transaction."""


async def _rolled_back(connection: Any) -> None:
    try:
        await connection.execute("ROLLBACK")
    except (*_AWAY, asyncpg.PostgresError):
        _ended(connection)


def _ended(connection: Any) -> None:
    """Have the session gone, if it is not gone by itself."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def quoted(name: str) -> str:
    """Return `name` as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def not_opened(error: Exception) -> ConfigError | PluginError:
    """Return what to raise where no connection is made: what the operator must do, or that the server is away."""
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return ConfigError("database.options.url", "there is no such database", "create it: createdb")
    if isinstance(error, _REFUSED):
        return ConfigError("database.options.url", "the server refused the user or the password")
    if isinstance(error, ValueError | asyncpg.ClientConfigurationError):
        return ConfigError(
            "database.options.url", "is no address of a database", "postgresql://user:password@host:5432/database"
        )
    return told(error)


def told(error: Exception) -> PluginError:
    """Return what to raise for a failure at work. Never quotes values."""
    if isinstance(error, asyncpg.DiskFullError):
        return Full(_NAME, "the server's disk is full")
    if isinstance(error, asyncpg.QueryCanceledError | TimeoutError):
        return Unavailable(_NAME, "the server took too long; ask for less, or set statement_timeout_s")
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return Unavailable(_NAME, "the server takes no changes now (a standby?)")
    if isinstance(error, asyncpg.PostgresError):
        return Unavailable(_NAME, f"the server failed: {type(error).__name__} {error.sqlstate or ''}".rstrip())
    return Unavailable(_NAME, f"the server cannot be reached: {type(error).__name__}")
