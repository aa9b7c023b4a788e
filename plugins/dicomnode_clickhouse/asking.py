"""One server, asked over HTTP. What fails is said as Unavailable, Full, BadRequest or ConfigError, without values.

A statement's answer is held back on the server until the statement is done (`wait_end_of_query`): a failure half-way
is then told by the status, and never stands within an answer that began well.
"""

from __future__ import annotations

import io
import re
import ssl
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec
from aiochclient import ChClient, ChClientError

from dicomnode.errors import BadRequest, ConfigError, Full, NodeError, Unavailable

_NAME = "clickhouse"
_URL = "warehouse.options.url"
_EXAMPLE = "clickhouse+http://user:password@host:8123/database"
_PORTS = {"clickhouse+http": ("http", 8123), "clickhouse+https": ("https", 8443)}
# The driver's reader of tab-separated answers makes a 0 of a NUL; JSON has no such fault.
_JSON = SimpleNamespace(loads=msgspec.json.decode, dumps=msgspec.json.encode)
_CODE = re.compile(r"Code: (\d+)")
# Who asks for a server that has just been started anew finds its old connections closed.
_AWAY = (aiohttp.ClientError, OSError, TimeoutError)

# Numbers of the server's ErrorCodes.
_REFUSED = {192, 193, 194, 516, 291}
_MAY_NOT = {497, 164}
_FULL = {241, 243}  # memory, disk
_NO_ROOM = re.compile("No space left|errno: 28")
_TOO_LONG = {159, 160, 209}
_NO_DATABASE = 81
_UNREADABLE = {6, 26, 27, 33, 38, 41, 53, 69, 72, 117, 131, 321, 349, 407, 467, 675, 691}


class Address(msgspec.Struct, frozen=True):
    """Where the server is, and who we are there."""

    url: str
    user: str
    password: str
    database: str

    def __repr__(self) -> str:
        return f"Address(database={self.database!r})"  # the rest may hold secrets


def address(url: str, password: str) -> Address:
    """Return what `url` says, with `password` where it has none. Raises: ConfigError."""
    try:
        parts = urlsplit(url)
        scheme, port = _PORTS[parts.scheme]
        host, told = parts.hostname, parts.port or port
    except (KeyError, ValueError) as error:
        raise ConfigError(_URL, "is no address of ClickHouse", _EXAMPLE) from error
    database = unquote(parts.path.strip("/"))
    if not host or not database or "/" in database or parts.query or parts.fragment:
        raise ConfigError(_URL, "is no address of ClickHouse", _EXAMPLE)
    name = f"[{host}]" if ":" in host else host
    secret = unquote(parts.password or "") or password
    return Address(f"{scheme}://{name}:{told}/", unquote(parts.username or "default"), secret, database)


class Refused(Exception):
    """The server does not know us, or we may not do this there; `code` is its number for it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class _Client(ChClient):  # type: ignore[misc]  # the driver is not typed
    """The driver, without its parsing of every statement: that held up the loop for 10 ms and more."""

    @staticmethod
    def _parse_squery(query: str) -> tuple[bool, bool, str]:
        kind = query.split(None, 1)[0]
        return kind == "SELECT", False, kind

    @staticmethod
    def _check_insert_file_query(query: str) -> None:
        assert query.startswith("INSERT INTO ")


class Server:
    """Statements for one server over a few connections."""

    def __init__(self, where: Address, *, timeout_s: float, connect_timeout_s: float, ca: str = "") -> None:
        self._where = where
        self._timeout_s = timeout_s
        self._connect_s = connect_timeout_s
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Be ready to ask; nothing is sent yet. Raises: ConfigError."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s + 2.0, sock_connect=self._connect_s)
        connector = aiohttp.TCPConnector(limit=8, ssl=self._trust())
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)

    def _trust(self) -> ssl.SSLContext | bool:
        if not self._ca:
            return True
        try:
            return ssl.create_default_context(cafile=self._ca)
        except OSError as error:
            raise ConfigError("warehouse.options.ca", "cannot be read as certificates in PEM form") from error

    async def close(self) -> None:
        """Leave the server."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, text: str, **values: object) -> Sequence[tuple[Any, ...]]:
        """Return the rows of the answer. In `text` {name} stands for the value of that name, quoted."""
        client = self._client(output_format_json_quote_64bit_integers=0)
        return [tuple(row.values()) for row in await self._tried(client.fetch(text, json=True, params=values or None))]

    async def tell(self, text: str, **settings: object) -> None:
        """Have a statement done that has no answer."""
        await self._tried(self._client(**settings).execute(text))

    async def insert(self, text: str, body: bytes, settings: Mapping[str, object]) -> None:
        """Have the rows in `body`, compressed by gzip, inserted as the statement `text` says."""
        client = self._client(**settings)
        client.headers["Content-Encoding"] = "gzip"
        await self._tried(client.insert_file(text, io.BytesIO(body)))

    def _client(self, **settings: object) -> Any:
        where = self._where
        return _Client(
            self._session,
            url=where.url,
            user=where.user,
            password=where.password,
            database="",  # tables are named in full: the database may not be there yet
            compress_response=True,
            json=_JSON,
            wait_end_of_query=1,
            max_execution_time=max(1, int(self._timeout_s)),
            **settings,
        )

    async def _tried(self, asked: Any) -> Any:
        try:
            return await asked
        except ChClientError as error:
            raise told(str(error)) from None  # the server quotes rows, and those are patients'
        except _AWAY as error:
            raise Unavailable(_NAME, f"the server cannot be reached: {type(error).__name__}") from error


def told(answer: str) -> NodeError | Refused:
    """Return what to raise for a failure that the server tells of. Never quotes values."""
    found = _CODE.search(answer[:200])
    code = int(found[1]) if found else 0
    if code in _REFUSED or code in _MAY_NOT:
        return Refused(code)
    if code in _FULL or _NO_ROOM.search(answer):
        return Full(_NAME, f"the server has no {'memory' if code == 241 else 'room'} left (code {code})")
    if code in _TOO_LONG:
        return Unavailable(_NAME, "the server took too long; ask for less, or set timeout_s")
    if code in _UNREADABLE:
        return BadRequest(f"{_NAME}: a row does not fit its table (code {code})")
    return Unavailable(_NAME, f"the server failed with code {code}" if code else "no server of ClickHouse answers")


def must(error: Refused) -> ConfigError:
    """Return what the operator must do."""
    if error.code in _REFUSED:
        return ConfigError(_URL, "the server refused the user or the password")
    return ConfigError(
        _URL, f"the user may not do what is needed (code {error.code})", "grant it; see docs/backends.md"
    )
