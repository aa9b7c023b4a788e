"""The tables brought up to date on start. Every statement may be run twice, by several nodes at once."""

from __future__ import annotations

from importlib.metadata import version

from dicomnode.errors import ConfigError
from dicomnode.model.warehouse import TABLES
from dicomnode_doris.asking import Frontends
from dicomnode_doris.tables import VERSIONS, Layout, ordered

# Rises with each change of the tables that an older program must not meet. Columns are only ever added.
SCHEMA = 1
_OPTION = "warehouse.options"


async def migrate(frontends: Frontends, layout: Layout, *, apply: bool) -> None:
    """Have the tables as this program knows them.

    Raises: ConfigError when they are newer, or older and `apply` is not set.
    """
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s"
    columns = {(str(row[0]), str(row[1])) for row in await frontends.ask(query, (layout.database,))}
    found = await _versions(frontends, layout) if (VERSIONS, "number") in columns else None
    if found and found[0] > SCHEMA:
        raise ConfigError(
            f"{_OPTION}.url",
            f"the tables of {layout.database} are of version {found[0]}, this program knows {SCHEMA}",
            f"install dicomnode {found[1]} or newer",
        )
    todo = [] if found and found[0] == SCHEMA else [layout.create_database(), *layout.create_all()]
    there = {name for name, _ in columns}
    for table in (table for table in TABLES if table.name in there):
        todo += [layout.add_column(table, c) for c in ordered(table) if (table.name, c.name) not in columns]
    if todo and not apply:
        raise ConfigError(f"{_OPTION}.migrate", f"the tables of {layout.database} are not up to date", "set it to true")
    if apply:
        todo += [statement for table in TABLES if table.name in there for statement in layout.keep_for(table)]
    for statement in todo:
        await frontends.ask(statement)
    if not found or found[0] < SCHEMA:
        await frontends.ask(made_by(layout))


def made_by(layout: Layout) -> str:
    """Return the statement that says which version the tables are of, and whose."""
    row = f"({SCHEMA}, '{version('dicomnode')}')"
    return f"INSERT INTO {layout.name(VERSIONS)} (`number`, `program`) VALUES {row}"  # noqa: S608


async def _versions(frontends: Frontends, layout: Layout) -> tuple[int, str] | None:
    """Return the newest version of the tables, and the program that made them."""
    query = f"SELECT number, program FROM {layout.name(VERSIONS)} ORDER BY number DESC LIMIT 1"  # noqa: S608
    rows = await frontends.ask(query)
    return (int(rows[0][0]), str(rows[0][1])) if rows else None
