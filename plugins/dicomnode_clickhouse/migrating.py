"""The tables brought up to date on start. Every statement may be run twice, by several nodes at once."""

from __future__ import annotations

from importlib.metadata import version

from dicomnode.errors import ConfigError
from dicomnode.model.warehouse import TABLES
from dicomnode_clickhouse.asking import Server
from dicomnode_clickhouse.tables import VERSIONS, Layout, text

# Rises with each change of the tables that an older program must not meet. Columns are only ever added.
SCHEMA = 1
_OLDEST = (23, 3)
_OPTION = "warehouse.options"


async def migrate(server: Server, layout: Layout, *, apply: bool) -> None:
    """Have the tables as this program knows them.

    Raises: ConfigError when they are newer, or older and `apply` is not set; when the server is too old.
    """
    await _check_server(server, layout)
    there = await _versions(server, layout)
    if there and there[0] > SCHEMA:
        raise ConfigError(
            f"{_OPTION}.url",
            f"the tables of {layout.database} are of version {there[0]}, this program knows {SCHEMA}",
            f"install dicomnode {there[1]} or newer",
        )
    todo = await _statements(server, layout, made=there is not None and there[0] == SCHEMA)
    if todo and not apply:
        raise ConfigError(f"{_OPTION}.migrate", f"the tables of {layout.database} are not up to date", "set it to true")
    for statement in todo:
        await server.tell(statement)


async def _check_server(server: Server, layout: Layout) -> None:
    told = str((await server.ask("SELECT version()"))[0][0])
    if tuple(int(part) for part in told.split(".")[:2]) < _OLDEST:
        raise ConfigError(
            f"{_OPTION}.url", f"the server is ClickHouse {told}", f"{'.'.join(map(str, _OLDEST))} or newer is needed"
        )
    if layout.cluster:
        query = "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = {cluster}"
        shards = (await server.ask(query, cluster=layout.cluster))[0][0]
        if shards != 1:
            raise ConfigError(
                f"{_OPTION}.cluster", f"{layout.cluster} has {shards} shards", "name a cluster of one shard, replicated"
            )


async def _versions(server: Server, layout: Layout) -> tuple[int, str] | None:
    """Return the newest version of the tables, and the program that made them; None where there are none."""
    query = "SELECT count() FROM system.tables WHERE database = {database} AND name = {table}"
    if not (await server.ask(query, database=layout.database, table=VERSIONS))[0][0]:
        return None
    query = f"SELECT number, program FROM {layout.name(VERSIONS)} ORDER BY number DESC LIMIT 1"  # noqa: S608
    found = await server.ask(query)
    return (found[0][0], found[0][1]) if found else None


async def _statements(server: Server, layout: Layout, *, made: bool) -> list[str]:
    """Return what is still to be done; `made`: the version says that it was done before."""
    todo = [] if made else layout.create_all()
    query = "SELECT count() FROM system.databases WHERE name = {database}"
    if not (await server.ask(query, database=layout.database))[0][0]:
        todo.insert(0, layout.create_database())
    query = "SELECT table, name FROM system.columns WHERE database = {database}"
    columns = {(row[0], row[1]) for row in await server.ask(query, database=layout.database)}
    query = "SELECT name, engine_full FROM system.tables WHERE database = {database}"
    engines = {row[0]: row[1] for row in await server.ask(query, database=layout.database)}
    for table in TABLES:
        if table.name in engines:
            todo += [layout.add_column(table, c) for c in table.columns if (table.name, c.name) not in columns]
            if not _lasts_as_said(engines[table.name], layout.lasts(table)):
                todo.append(layout.keep_for(table))
    return todo if made else [*todo, made_by(layout)]


def made_by(layout: Layout) -> str:
    """Return the statement that says which version the tables are of, and whose."""
    row = f"({SCHEMA}, {text(version('dicomnode'))})"
    return f"INSERT INTO {layout.name(VERSIONS)} (number, program) VALUES {row}"  # noqa: S608


def _lasts_as_said(engine: str, said: str) -> bool:
    told = engine.partition(" TTL ")[2].partition(" SETTINGS ")[0]
    return told.replace("`", "") == said.replace("`", "")
