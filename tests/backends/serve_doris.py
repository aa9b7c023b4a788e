"""Play Apache Doris as far as we use it: `python serve_doris.py FOLDER HTTP BACKEND MYSQL USER PASSWORD`.

There is no Doris to be had for tests. This speaks MySQL's protocol (mysql-mimic), takes Doris' SQL as sqlglot reads it,
keeps the rows in a DuckDB, and loads batches as a frontend and a backend do: redirect, labels, states, refusals. What
it enforces of Doris is written here, and no more than that is shown by tests that run over it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import sqlglot
from aiohttp import encode_basic_auth, web
from mysql_mimic import IdentityProvider, MysqlServer, NativePasswordAuthPlugin, Session, User
from mysql_mimic.errors import ErrorCode, MysqlError
from sqlglot import exp

_BACKENDS = 3
_PARTED = re.compile(r"AUTO PARTITION BY RANGE \(date_trunc\(`(\w+)`, 'month'\)\) \(\)")
_CREATE = re.compile(
    r"(?s)CREATE TABLE IF NOT EXISTS `(?P<db>[^`]+)`\.`(?P<table>\w+)` \((?P<columns>.*?)\n\)\n"
    r"UNIQUE KEY \((?P<key>[^)]*)\)\n(?:AUTO PARTITION BY RANGE \(date_trunc\(`(?P<parted>\w+)`, 'month'\)\) \(\)\n)?"
    r"DISTRIBUTED BY HASH\(`(?P<spread>\w+)`\) BUCKETS (?:AUTO|\d+)\nPROPERTIES \((?P<properties>.*)\)"
)
_COLUMN = re.compile(r"`(\w+)` (\w+)(?:\((\d+)\))? (NOT NULL|NULL)")
_KINDS = {"VARCHAR": "VARCHAR", "STRING": "VARCHAR", "BIGINT": "BIGINT", "INT": "INTEGER", "DOUBLE": "DOUBLE"} | {
    "DATE": "DATE",
    "DATETIME": "TIMESTAMP",
}
_LABEL = re.compile(r"[-\w]{1,128}")


class Column(msgspec.Struct, frozen=True):
    """A column: its type, the most bytes of a text (0: any number), and whether it may be null."""

    name: str
    kind: str
    width: int
    null: bool


class Table(msgspec.Struct, frozen=True):
    """A UNIQUE KEY table."""

    columns: tuple[Column, ...]
    key: tuple[str, ...]
    sequence: str


class Refused(Exception):
    """Doris would refuse this."""


class Engine:
    """Every database of this process."""

    def __init__(self, folder: Path) -> None:
        self._db = duckdb.connect()
        self._folder = folder
        self._tables: dict[tuple[str, str], Table] = {}

    def table(self, database: str, name: str) -> Table:
        """Return a table. Raises: Refused."""
        try:
            return self._tables[database, name]
        except KeyError:
            raise Refused(f"unknown table {database}.{name}") from None

    def run(self, text: str, expression: exp.Expression) -> tuple[Sequence[Any], list[str]]:
        """Return the rows of a statement's answer and their names. Raises: Refused."""
        if text.startswith("CREATE TABLE"):
            return self._create(text)
        if isinstance(expression, exp.Alter):
            return self._alter(text, expression)
        if isinstance(expression, exp.Create) and expression.kind == "DATABASE":
            expression.set("kind", "SCHEMA")
        try:
            cursor = self._db.cursor().execute(expression.sql("duckdb"))
        except duckdb.Error as error:
            raise Refused(str(error)) from error
        if isinstance(expression, exp.Create | exp.Insert):
            return [], []
        return cursor.fetchall(), [str(column[0]) for column in cursor.description]

    def _create(self, text: str) -> tuple[Sequence[Any], list[str]]:
        found = _CREATE.fullmatch(text)
        if found is None:
            raise Refused("the statement is not one that this reads")
        # What sqlglot does not know of Doris is cut out; all else must be what it takes for Doris' language.
        known = _PARTED.sub("", text).replace("BUCKETS AUTO", "BUCKETS 8")
        if not isinstance(sqlglot.parse_one(known, read="doris"), exp.Create):
            raise Refused("the statement is not one of Doris")
        table = _table(found)
        self._tables.setdefault((found["db"], found["table"]), table)
        columns = ", ".join(f'"{c.name}" {_KINDS[c.kind]}{"" if c.null else " NOT NULL"}' for c in table.columns)
        key = ", ".join(f'"{name}"' for name in table.key)
        name = f'"{found["db"]}"."{found["table"]}"'
        self._db.cursor().execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({key}))")
        return [], []

    def _alter(self, text: str, expression: exp.Alter) -> tuple[Sequence[Any], list[str]]:
        place = expression.this.db, expression.this.name
        table = self.table(*place)
        if gone := text.partition(" DROP COLUMN ")[2]:
            self._db.cursor().execute(f'ALTER TABLE "{place[0]}"."{place[1]}" DROP COLUMN "{gone}"')
            kept = tuple(column for column in table.columns if column.name != gone)
            self._tables[place] = msgspec.structs.replace(table, columns=kept)
        if added := _COLUMN.search(text.partition(" ADD COLUMN ")[2]):
            column = _column(added)
            if not column.null:
                raise Refused("a column without a default can only be added where it may be null")
            self._db.cursor().execute(
                f'ALTER TABLE "{place[0]}"."{place[1]}" ADD COLUMN "{column.name}" {_KINDS[column.kind]}'
            )
            self._tables[place] = msgspec.structs.replace(table, columns=(*table.columns, column))
        return [], []

    def load(self, database: str, name: str, body: bytes) -> None:
        """Keep rows. Raises: Refused; then none is kept."""
        table = self.table(database, name)
        for line in body.splitlines():
            _check(table, line)
        file = self._folder / "rows.json"
        file.write_bytes(body)
        read = ", ".join(f"'{c.name}': '{_KINDS[c.kind]}'" for c in table.columns)
        key = ", ".join(f'"{name}"' for name in table.key)
        newest = f'"{table.sequence}" DESC,' if table.sequence else ""
        changed = ", ".join(f'"{c.name}" = excluded."{c.name}"' for c in table.columns if c.name not in table.key)
        later = f'WHERE excluded."{table.sequence}" >= kept."{table.sequence}"' if table.sequence else ""
        try:
            self._db.cursor().execute(
                f'INSERT INTO "{database}"."{name}" AS kept BY NAME SELECT * EXCLUDE (place) FROM (SELECT *, '
                f"row_number() OVER () AS place FROM read_json('{file}', format = 'newline_delimited', "
                f"columns = {{{read}}})) QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest} place DESC) "
                f"= 1 ON CONFLICT DO UPDATE SET {changed} {later}"
            )
        except duckdb.Error as error:
            raise Refused(f"[DATA_QUALITY_ERROR]too many filtered rows: {error}") from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`(\w+)`", text))


def _column(found: re.Match[str]) -> Column:
    kind = found[2]
    if kind not in _KINDS:
        raise Refused(f"no type {kind}")
    width = int(found[3] or 0)
    if kind == "VARCHAR" and not 0 < width <= 65533:
        raise Refused(f"VARCHAR({width})")
    return Column(found[1], kind, width if kind == "VARCHAR" else 0, found[4] == "NULL")


def _table(found: re.Match[str]) -> Table:
    """Return the table of a statement, if it keeps the rules of Doris."""
    columns = tuple(map(_column, _COLUMN.finditer(found["columns"])))
    if len(columns) != len(found["columns"].strip().splitlines()):
        raise Refused("a column that this does not read")
    key, by_name = _names(found["key"]), {column.name: column for column in columns}
    if tuple(column.name for column in columns[: len(key)]) != key:
        raise Refused("key columns must come first, in their order")
    if any(by_name[name].kind in ("STRING", "DOUBLE") for name in key):
        raise Refused("String Type should not be used in key column")
    parted = found["parted"]
    if parted and (parted not in key or by_name[parted].null or by_name[parted].kind != "DATETIME"):
        raise Refused("the partition column must be a key column that is not null")
    if found["spread"] not in key:
        raise Refused("the distribution column must be a key column")
    told = dict(re.findall(r'"([^"]+)" = "([^"]*)"', found["properties"]))
    if int(told.get("replication_num", "3")) > _BACKENDS:
        raise Refused(f"replication num should be less than the number of available backends: {_BACKENDS}")
    sequence = told.get("function_column.sequence_col", "")
    if sequence and (sequence in key or by_name[sequence].kind != "DATETIME"):
        raise Refused("the sequence column must be a value column of a time")
    return Table(columns, key, sequence)


def _check(table: Table, line: bytes) -> None:
    """Raise Refused where Doris would filter the row."""
    told = json.loads(line)
    for column in table.columns:
        value = told.get(column.name)
        if value is None and not column.null:
            raise Refused(f"[DATA_QUALITY_ERROR]too many filtered rows: null in {column.name}")
        if column.width and value is not None and len(str(value).encode()) > column.width:
            raise Refused(f"[DATA_QUALITY_ERROR]too many filtered rows: {column.name} is too long")
        if column.kind == "DATETIME" and value is not None and not re.fullmatch(r"[-\d]{10} [:\d]{8}(\.\d+)?", value):
            raise Refused(f"[DATA_QUALITY_ERROR]too many filtered rows: {column.name} is no time")


class Users(IdentityProvider):  # type: ignore[misc]  # the library is not typed
    """The one user there is."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password

    async def get_user(self, username: str) -> User:
        """Return the user; one that is not there has a password that nobody knows."""
        known = self._password if username == self._user else secrets.token_hex()
        secret = NativePasswordAuthPlugin.create_auth_string(known)
        return User(username, secret, NativePasswordAuthPlugin.name)


class Talk(Session):  # type: ignore[misc]  # the library is not typed
    """One connection by MySQL's protocol."""

    dialect = "doris"

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        # The catalogue is that of the engine, and so is what needs no table.
        self.middlewares.remove(self._info_schema_middleware)
        self.middlewares.remove(self._static_query_middleware)

    async def handle_query(self, sql: str, attrs: Mapping[str, str]) -> Any:
        """Answer a statement; settings of a session are taken as they come."""
        return ([], []) if sql.startswith("SET ") else await super().handle_query(sql, dict(attrs))

    async def query(self, expression: exp.Expression, sql: str, attrs: Mapping[str, str]) -> Any:
        """Answer a statement."""
        try:
            return self._engine.run(sql, expression)
        except Refused as error:
            raise MysqlError(f"errCode = 2, detailMessage = {error}", ErrorCode.UNKNOWN_ERROR) from error


class Loads:
    """The HTTP interfaces of a frontend and of a backend. `faults`: what goes wrong next, in turn."""

    def __init__(self, engine: Engine, user: str, password: str, backend: int) -> None:
        self._engine = engine
        self._auth = encode_basic_auth(user, password, "utf-8")
        self._backend = backend
        self._labels: set[str] = set()
        self._faults: list[dict[str, Any]] = []

    def frontend(self) -> web.Application:
        """Return what answers at the frontend's port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_put("/api/{db}/{table}/_stream_load", self._redirect, expect_handler=_not_yet)
        app.router.add_get("/api/backends", self._backends)
        app.router.add_put("/_fault", self._fault)
        return app

    def backend(self) -> web.Application:
        """Return what answers at the backend's port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_put("/api/{db}/{table}/_stream_load", self._load)
        return app

    async def _fault(self, request: web.Request) -> web.Response:
        self._faults = await request.json()
        return web.Response()

    def _due(self, *kinds: str) -> dict[str, Any]:
        return self._faults.pop(0) if self._faults and set(self._faults[0]) & set(kinds) else {}

    async def _backends(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != self._auth:
            return web.Response(status=401)
        listed = [{"ip": "127.0.0.1", "http_port": self._backend, "is_alive": True}]
        return web.json_response({"msg": "success", "code": 0, "data": {"backends": listed}, "count": 0})

    async def _redirect(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != self._auth:
            return web.Response(status=401)
        if fault := self._due("redirect"):
            return web.Response(status=307, headers={"Location": fault["redirect"]})
        # As Doris does: whoever follows blindly would find the user and the password in the address.
        location = f"http://somebody:secret@127.0.0.1:{self._backend}{request.rel_url}"
        return web.Response(status=307, headers={"Location": location})

    async def _load(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != self._auth:
            return web.Response(status=401)
        body = await request.read()
        fault = self._due("answer", "http", "lose", "drop")
        if "drop" in fault and request.transport is not None:
            request.transport.close()
            return web.Response()
        if "http" in fault:
            return web.Response(status=fault["http"], text="<html>away</html>")
        answer = fault.get("answer") or self._loaded(request, body)
        if "lose" in fault and request.transport is not None:
            request.transport.close()
        return web.json_response(answer)

    def _loaded(self, request: web.Request, body: bytes) -> dict[str, Any]:
        told, label = request.headers, request.headers.get("label", "")
        if told.get("format") != "json" or told.get("read_json_by_line") != "true" or not _LABEL.fullmatch(label):
            return {"Status": "Fail", "Message": "the headers are not as they should be"}
        if told.get("Expect") != "100-continue":
            return {"Status": "Fail", "Message": "There is no 100-continue header"}
        place = request.match_info["db"], request.match_info["table"]
        if f"{place[0]} {label}" in self._labels:
            return {"Status": "Label Already Exists", "ExistingJobStatus": "FINISHED", "Label": label}
        try:
            self._engine.load(*place, body)
        except Refused as error:
            return {"Status": "Fail", "Message": str(error), "Label": label}
        self._labels.add(f"{place[0]} {label}")
        return {"Status": "Success", "Message": "OK", "Label": label, "NumberLoadedRows": body.count(b"\n")}


async def _not_yet(request: web.Request) -> None:
    """Do not ask for the body: it is for another."""


async def serve(folder: str, ports: Sequence[str], user: str, password: str) -> None:
    """Serve until the process ends."""
    engine = Engine(Path(folder))
    http, backend, mysql = map(int, ports)
    loads = Loads(engine, user, password, backend)
    for app, port in ((loads.frontend(), http), (loads.backend(), backend)):
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
    server = MysqlServer(session_factory=lambda: Talk(engine), identity_provider=Users(user, password))
    await server.start_server(host="127.0.0.1", port=mysql)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:5], *sys.argv[5:7]))
