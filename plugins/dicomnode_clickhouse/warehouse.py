"""The warehouse in ClickHouse (23.3 or newer), written to by any number of recorders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from dicomnode.errors import ConfigError, Unavailable
from dicomnode.model.warehouse import TABLES, AccessGrouping, Grouping, Holding, Span, Table, Use
from dicomnode.ports.warehouse import Pulling, Warehouse
from dicomnode_clickhouse import counting
from dicomnode_clickhouse.asking import Refused, Server, address, must
from dicomnode_clickhouse.migrating import made_by, migrate
from dicomnode_clickhouse.rows import packed
from dicomnode_clickhouse.tables import VERSIONS, Layout, quoted

_PAGE = 50_000  # paths fetched at once, some 10 MB
_KAFKA_PORT = 9092


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: clickhouse+http://user:password@host:8123/database, or clickhouse+https; `ca`: who signed its certificate.

    `password`: where the url has none. `cluster`: the name of a replicated cluster of one shard. `retain_days`: after
    how many days received objects and requests may be dropped; 0: never. `timeout_s`, `connect_timeout_s`: seconds.
    `migrate`: make the tables, and bring them up to date, on start.
    """

    url: str = "clickhouse+http://localhost:8123/dicomnode"
    password: str = ""
    ca: str = ""
    cluster: str = ""
    retain_days: int = 0
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    migrate: bool = True

    def __repr__(self) -> str:
        return f"Options(cluster={self.cluster!r}, retain_days={self.retain_days})"  # the rest may hold secrets


class ClickHouseWarehouse(Warehouse, Pulling):
    """A database of a ClickHouse. A row that comes again replaces itself: ReplacingMergeTree by key and version."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        where = address(options.url, options.password)
        self._server = Server(
            where, timeout_s=options.timeout_s, connect_timeout_s=options.connect_timeout_s, ca=options.ca
        )
        self._layout = Layout(where.database, options.cluster, max(0, options.retain_days))
        # Times are as RFC 3339 has them, and a batch that we were told of is in a part, not in the server's memory.
        self._inserting = {"date_time_input_format": "best_effort", "async_insert": 0} | (
            {"insert_quorum": "auto"} if options.cluster else {}
        )

    async def __aenter__(self) -> Self:
        await self._server.open()
        try:
            await migrate(self._server, self._layout, apply=self._options.migrate)
        except Refused as error:
            await self._server.close()
            raise must(error) from error
        except BaseException:
            await self._server.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()

    async def ping(self) -> None:
        """Return when the server answers and the tables are there. Raises: Unavailable."""
        await self._ask(f"SELECT number FROM {self._layout.name(VERSIONS)} LIMIT 1")  # noqa: S608

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Keep `rows` for good; see Warehouse. Raises: Unavailable, Full; BadRequest for what no column can hold."""
        if not rows:
            return
        body = await asyncio.to_thread(packed, table, rows)
        names = ", ".join(quoted(column.name) for column in table.columns)
        into = f"INSERT INTO {self._layout.name(table.name)} ({names}) FORMAT JSONEachRow"
        try:
            await self._server.insert(into, body, self._inserting)
        except Refused as error:
            raise _not_now(error) from error

    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Return what was received, by label; see Warehouse."""
        return [Holding(*row) for row in await self._ask(counting.holdings(self._layout, by, span, most))]

    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Return who asked, or for what; see Warehouse."""
        return [Use(*row) for row in await self._ask(counting.accesses(self._layout, by, span, most))]

    async def counts(self) -> Mapping[str, int]:
        """Return how many rows of different key each table holds. Raises: Unavailable."""
        row = (await self._ask(counting.counts(self._layout)))[0]
        return {table.name: row[number] for number, table in enumerate(TABLES)}

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the paths of received objects that begin with `prefix`, in order; a question a page."""
        last = None
        while page := await self._ask(counting.keys(self._layout, prefix, last, _PAGE)):
            for row in page:
                yield row[0]
            last = page[-1][0]

    def definitions(self, *, pull: bool, broker: str) -> Sequence[str]:
        """Return the statements that make the tables; with `pull` those by which the server fetches rows itself."""
        made = [self._layout.create_database(), *self._layout.create_all(), made_by(self._layout)]
        return [*made, *self._layout.pulling(_kafka(broker))] if pull else made

    async def _ask(self, query: str) -> Sequence[tuple[Any, ...]]:
        try:
            return await self._server.ask(query)
        except Refused as error:
            raise _not_now(error) from error


def _not_now(error: Refused) -> Unavailable:
    return Unavailable("clickhouse", f"the server no longer lets us in, or lets us do this (code {error.code})")


def _kafka(broker: str) -> str:
    """Return the servers of a Kafka's url; who we are there is not for a statement that is shown."""
    scheme, _, rest = broker.partition("://")
    servers = rest.partition("/")[0].partition("?")[0].rpartition("@")[2]
    hosts = [urlsplit(f"//{server}") for server in servers.split(",")]
    try:
        told = [f"{host.netloc}" if host.port else f"{host.netloc}:{_KAFKA_PORT}" for host in hosts if host.hostname]
    except ValueError:
        told = []
    if not scheme.startswith("kafka") or len(told) != len(hosts):
        raise ConfigError("broker.options.url", "is no address of a Kafka to pull from", "kafka://host:9092,host:9092")
    return ",".join(told)


_: type[Warehouse] = ClickHouseWarehouse
