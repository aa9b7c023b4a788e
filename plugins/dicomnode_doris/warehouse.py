"""The warehouse in Apache Doris (2.1 or newer), written to by any number of recorders."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from dicomnode.errors import ConfigError
from dicomnode.model.warehouse import AccessGrouping, Grouping, Holding, Span, Table, Use
from dicomnode.ports.warehouse import Pulling, Warehouse
from dicomnode_doris import counting
from dicomnode_doris.addresses import cluster
from dicomnode_doris.asking import Frontends, Refused
from dicomnode_doris.loading import Loader
from dicomnode_doris.migrating import made_by, migrate
from dicomnode_doris.rows import lines
from dicomnode_doris.tables import VERSIONS, Layout, quoted

_PAGE = 50_000  # paths fetched at once, some 10 MB
_KAFKA_PORT = 9092


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: doris://user:password@fe1:8030,fe2:8030/database; doris+https for TLS, `ca`: who signed its certificates.

    `password`: where the url has none. `query_port`: that of MySQL's protocol. `backends`: the host:port that frontends
    may send us on to; none: those that they list. `replicas`: copies of each part. `retain_days`: after how many days
    received objects and requests may be dropped; 0: never. `timeout_s`, `connect_timeout_s`: seconds. `migrate`: make
    the tables, and bring them up to date, on start.
    """

    url: str = "doris://root@localhost:8030/dicomnode"
    password: str = ""
    ca: str = ""
    query_port: int = 9030
    backends: tuple[str, ...] = ()
    replicas: int = 3
    retain_days: int = 0
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    migrate: bool = True

    def __repr__(self) -> str:
        return f"Options(replicas={self.replicas}, retain_days={self.retain_days})"  # the rest may hold secrets


class DorisWarehouse(Warehouse, Pulling):
    """A database of a Doris. A row that comes again replaces itself: UNIQUE KEY tables with a sequence column."""

    Options = Options

    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        assert isinstance(options, Options)
        self._options = options
        self._cluster = cluster(options.url, options.password)
        self._layout = Layout(self._cluster.database, max(1, options.replicas), max(0, options.retain_days))
        self._frontends: Any = None
        self._loader: Any = None

    async def __aenter__(self) -> Self:
        options, trust = self._options, self._trust()
        times = {"timeout_s": options.timeout_s, "connect_timeout_s": options.connect_timeout_s}
        self._frontends = Frontends(self._cluster, port=options.query_port, trust=trust, **times)
        self._loader = Loader(self._cluster, backends=options.backends, trust=trust, **times)
        try:
            await migrate(self._frontends, self._layout, apply=options.migrate)
        except Refused as error:
            raise error.must() from error
        await self._loader.open()
        return self

    def _trust(self) -> ssl.SSLContext | None:
        if self._cluster.scheme != "https":
            return None
        try:
            return ssl.create_default_context(cafile=self._options.ca or None)
        except OSError as error:
            raise ConfigError("warehouse.options.ca", "cannot be read as certificates in PEM form") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._loader.close()

    async def ping(self) -> None:
        """Return when a frontend answers and the tables are there. Raises: Unavailable."""
        await self._ask((f"SELECT number FROM {self._layout.name(VERSIONS)} LIMIT 1", ()))  # noqa: S608

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Keep `rows` for good; see Warehouse. Raises: Unavailable, Full; BadRequest for what no column can hold."""
        if not rows:
            return
        body = await asyncio.to_thread(lambda: b"".join(lines(table, rows)))
        try:
            await self._loader.load(table.name, body)
        except Refused as error:
            raise error.not_now() from error

    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Return what was received, by label; see Warehouse."""
        rows = await self._ask(counting.holdings(self._layout, by, span, most))
        return [Holding(label, int(studies), int(objects), int(size)) for label, studies, objects, size in rows]

    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Return who asked, or for what; see Warehouse."""
        rows = await self._ask(counting.accesses(self._layout, by, span, most))
        return [
            Use(label, int(requests), int(failures), int(size), float(seconds))
            for label, requests, failures, size, seconds in rows
        ]

    async def counts(self) -> Mapping[str, int]:
        """Return how many rows of different key each table holds. Raises: Unavailable."""
        return {str(name): int(held) for name, held in await self._ask(counting.counts(self._layout))}

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the paths of received objects that begin with `prefix`, in order; a question a page."""
        last = None
        while page := await self._ask(counting.keys(self._layout, prefix, last, _PAGE)):
            for row in page:
                yield row[0]
            last = page[-1][0]

    def definitions(self, *, pull: bool, broker: str) -> Sequence[str]:
        """Return the statements that make the tables; with `pull` those by which Doris fetches rows itself."""
        made = [self._layout.create_database(), *self._layout.create_all(), made_by(self._layout)]
        if not pull:
            return made
        return [*made, f"USE {quoted(self._cluster.database)}", *self._layout.pulling(_kafka(broker))]

    async def _ask(self, question: counting.Question) -> Sequence[tuple[Any, ...]]:
        try:
            rows: Sequence[tuple[Any, ...]] = await self._frontends.ask(*question)
        except Refused as error:
            raise error.not_now() from error
        return rows


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


_: type[Warehouse] = DorisWarehouse
