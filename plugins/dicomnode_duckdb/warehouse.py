"""The rows in one DuckDB file: one thread writes, another one counts beside it and sees whole transactions only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import msgspec

from dicomnode.errors import ConfigError, Corrupt, Unavailable
from dicomnode.model.warehouse import AccessGrouping, Grouping, Holding, Span, Table, Use
from dicomnode.ports.offload import Threads
from dicomnode.ports.warehouse import Warehouse
from dicomnode_duckdb import counting
from dicomnode_duckdb.migrating import migrate
from dicomnode_duckdb.opening import driver_error, is_fatal, opened, told
from dicomnode_duckdb.recording import Recorder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")

_CHUNK = 1000
_DROPPING_S = 3600.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: the file (default `<data_dir>/warehouse.duckdb`). `memory_mib`: what DuckDB may use.

    `threads`: how many processors one question or one batch may use. `retain_days`: received objects and requests
    longer ago are forgotten; 0: nothing is.
    """

    path: str = ""
    memory_mib: Annotated[int, msgspec.Meta(ge=64)] = 128
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    retain_days: Annotated[int, msgspec.Meta(ge=0)] = 0


class DuckDbWarehouse(Warehouse):
    """A file with the tables."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._path = Path(options.path) if options.path else data_dir / "warehouse.duckdb"
        self._writer = Threads(1, "warehouse-writer")
        self._reader = Threads(1, "warehouse-reader")
        self._open_file: _Open | None = None
        self._cursors: set[DuckDBPyConnection] = set()
        self._broken = False
        self._closed = True
        self._mending = asyncio.Lock()
        self._next_drop = 0.0

    async def __aenter__(self) -> Self:
        self._writer.start()
        self._reader.start()
        try:
            await self._writer.run(self._open)
        except BaseException:
            await self._writer.close()
            await self._reader.close()
            raise
        self._closed = False
        return self

    def _open(self) -> None:
        connection = opened(self._path, self._options.memory_mib, self._options.threads)
        try:
            migrate(connection, self._path)
            recorder = Recorder(connection, self._path.parent, self._options.retain_days)
        except BaseException as error:
            connection.close()
            if isinstance(error, driver_error()):
                raise told(error) from error
            raise
        self._open_file = _Open(connection, connection.cursor(), recorder)
        self._broken = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._reader.run(self._close_cursors)
        await self._writer.run(self._close)
        await self._writer.close()
        await self._reader.close()

    def _close_cursors(self) -> None:
        for cursor in self._cursors:
            cursor.close()
        self._cursors.clear()

    def _close(self) -> None:
        if self._open_file is not None:
            self._open_file.close()
            self._open_file = None

    async def _mend(self) -> None:
        """Have the file open again after a failure that DuckDB does not go on from. Raises: Unavailable, Full …"""
        async with self._mending:
            if self._broken:
                await self._reader.run(self._close_cursors)
                await self._writer.run(self._close)
                try:
                    await self._writer.run(self._open)
                except ConfigError as error:  # it was right when we started: what waits for us is to go on waiting
                    raise Unavailable("duckdb", str(error)) from error

    async def _run(self, threads: Threads, function: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise Unavailable("duckdb", "the warehouse is closed")
        if self._broken:
            await self._mend()
        return await threads.run(self._translated, function, args)

    def _translated(self, function: Callable[..., T], args: Sequence[object]) -> T:
        """Return `function(file, *args)`. Raises: what stands for the driver's error."""
        if self._open_file is None:
            raise Unavailable("duckdb", "the file could not be opened anew yet")
        try:
            return function(self._open_file, *args)
        except driver_error() as error:
            self._broken = self._broken or is_fatal(error)
            problem = told(error)
            # What does not fit is quoted by the driver, and must come into no log.
            raise problem from (None if isinstance(problem, Corrupt) else error)
        except OSError as error:
            raise told(error) from error

    async def ping(self) -> None:
        """Return when the file answers. Raises: Unavailable, Full."""
        await self._run(self._reader, _asked, counting.PING, None)

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Have `rows` in the file, each instead of what it repeats; see Warehouse."""
        if rows:
            await self._run(self._writer, self._record, table, rows)

    def _record(self, file: _Open, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        file.recorder.record(table, rows)
        if time.monotonic() >= self._next_drop:
            file.recorder.drop_old()
            self._next_drop = time.monotonic() + _DROPPING_S

    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Return what was received, by label; see Warehouse."""
        rows = await self._run(self._reader, _asked, *counting.holdings(by, span, most))
        return [Holding(*row) for row in rows]

    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Return who asked, or for what; see Warehouse."""
        rows = await self._run(self._reader, _asked, *counting.accesses(by, span, most))
        return [Use(*row) for row in rows]

    async def counts(self) -> Mapping[str, int]:
        """Return how many rows each table holds; see Warehouse."""
        return dict(await self._run(self._reader, _asked, counting.COUNTS, None))

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the keys of received objects that begin with `prefix`; see Warehouse.

        They are sorted once, beyond `memory_mib` in files beside the warehouse's, and are those of one moment.
        """
        cursor = await self._run(self._reader, self._begin, prefix)
        try:
            while chunk := await self._run(self._reader, self._next, cursor):
                for (key,) in chunk:
                    yield key
        finally:
            if cursor in self._cursors:
                await self._reader.run(self._end, cursor)

    def _begin(self, file: _Open, prefix: str) -> DuckDBPyConnection:
        cursor = file.reading.cursor()
        self._cursors.add(cursor)
        return cursor.execute(counting.KEYS, [prefix])

    def _next(self, file: _Open, cursor: DuckDBPyConnection) -> list[tuple[Any, ...]]:
        if cursor not in self._cursors:
            raise Unavailable("duckdb", "the file was opened anew meanwhile; ask again")
        return cursor.fetchmany(_CHUNK)

    def _end(self, cursor: DuckDBPyConnection) -> None:
        self._cursors.discard(cursor)
        cursor.close()


class _Open:
    """An open file: a connection that writes, one that reads."""

    def __init__(self, writing: DuckDBPyConnection, reading: DuckDBPyConnection, recorder: Recorder) -> None:
        self.writing = writing
        self.reading = reading
        self.recorder = recorder

    def close(self) -> None:
        self.recorder.close()
        self.reading.close()
        self.writing.close()


def _asked(file: _Open, text: str, values: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
    return file.reading.execute(text, values).fetchall()


_: type[Warehouse] = DuckDbWarehouse
