"""Batches of rows over HTTP: a stream load, under a label made of its rows.

A label is taken once: a batch that is sent again, because the answer was lost, is not loaded again. A frontend sends us
on to a backend. We go there with our credentials only if it is of this cluster, by what the operator says or the
frontend lists.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter

from dicomnode.errors import BadRequest, Full, PluginError, Unavailable
from dicomnode_doris.addresses import Cluster, Frontend
from dicomnode_doris.asking import Refused

_NAME = "doris"
_AWAY = (aiohttp.ClientError, OSError, TimeoutError)
_HOPS = 3
_PIECE = 256 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
# What the messages of a failed load begin with, or hold.
_UNREADABLE = ("DATA_QUALITY_ERROR", "too many filtered rows", "Parse json")
_NO_ROOM = ("MEM_LIMIT_EXCEEDED", "MEM_ALLOC_FAILED", "exceed capacity", "No space left", "DISK_REACH_CAPACITY_LIMIT")


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    """What a load ended with."""

    status: str = ""
    message: str = ""
    existing_job_status: str = ""


class _Backend(msgspec.Struct, frozen=True):
    ip: str = ""
    http_port: int = 0


class _Listed(msgspec.Struct, frozen=True):
    backends: tuple[_Backend, ...] = ()


class _Backends(msgspec.Struct, frozen=True):
    """What a frontend answers who asks for the backends."""

    data: _Listed = _Listed()


class _Body(aiohttp.Payload):
    """Bytes that are sent from their start whenever they are sent.

    The library sends a PUT again by itself when the connection is lost. A file it might send from where it had come
    to: nothing would be loaded then, and the label be taken.
    """

    _value: bytes

    def __init__(self, body: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the bytes as text."""
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all bytes."""
        view = memoryview(self._value)
        for start in range(0, len(view), _PIECE):
            await writer.write(view[start : start + _PIECE])


class _Running(Exception):
    """A load of the same rows is under way."""


class Loader:
    """Stream loads into one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        backends: tuple[str, ...],
        timeout_s: float,
        connect_timeout_s: float,
        trust: ssl.SSLContext | None,
    ) -> None:
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._connect_s = connect_timeout_s
        self._trust = trust
        self._told = frozenset(backends)
        self._listed: frozenset[str] = frozenset()
        self._session: Any = None
        self._first = 0

    async def open(self) -> None:
        """Be ready to load; nothing is sent yet."""
        own = aiohttp.encode_basic_auth(self._cluster.user, self._cluster.password)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s + 2.0, sock_connect=self._connect_s),
            connector=aiohttp.TCPConnector(limit=8, ssl=self._trust or True),
            headers={"Authorization": own},
        )

    async def close(self) -> None:
        """Leave the cluster."""
        if self._session is not None:
            await self._session.close()

    async def load(self, table: str, body: bytes) -> None:
        """Return when the rows in `body`, lines of JSON, are kept; once, however often they are sent.

        Raises: Unavailable, Full; BadRequest for rows that do not fit the table; Refused.
        """
        label = f"dicomnode_{table}_{hashlib.sha256(body).hexdigest()[:40]}"
        ends, pause_s = time.monotonic() + self._timeout_s, _FIRST_PAUSE_S
        while True:
            try:
                return await self._sent(table, label, body)
            except _Running:
                if time.monotonic() > ends:
                    raise Unavailable(_NAME, "a load of the same rows takes too long") from None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _sent(self, table: str, label: str, body: bytes) -> None:
        """Send a batch to the first frontend that answers."""
        last: BaseException | None = None
        frontends = self._cluster.frontends
        for number in range(len(frontends)):
            index = (self._first + number) % len(frontends)
            try:
                answer = await self._put(frontends[index], table, label, body)
            except _AWAY as error:
                last = error
                continue
            self._first = index
            return _judge(answer)
        raise Unavailable(_NAME, f"no frontend can be reached: {type(last).__name__}") from last

    async def _put(self, frontend: Frontend, table: str, label: str, body: bytes) -> _Answer:
        path = f"/api/{quote(self._cluster.database, safe='')}/{table}/_stream_load"
        at = frontend.authority
        for _ in range(_HOPS):
            request = self._session.put(
                f"{self._cluster.scheme}://{at}{path}",
                data=_Body(body),
                headers=self._headers(label),
                expect100=True,
                allow_redirects=False,
            )
            async with request as response:
                if response.status not in (301, 302, 307, 308):
                    return await _read(response)
                at = await self._next(frontend, response.headers.get("Location", ""))
        raise Unavailable(_NAME, "the servers send us round in a circle")

    def _headers(self, label: str) -> dict[str, str]:
        return {
            "label": label,
            "format": "json",
            "read_json_by_line": "true",
            "strict_mode": "true",  # a value that does not fit its column fails the load; it does not become null
            "max_filter_ratio": "0",
            "timezone": "UTC",
            "timeout": str(max(1, int(self._timeout_s))),
        }

    async def _next(self, frontend: Frontend, location: str) -> str:
        """Return where to go on, host and port. Raises: Unavailable where that is not of this cluster."""
        try:
            parts = urlsplit(location)
            at = Frontend(parts.hostname or "", parts.port or 80).authority
        except ValueError:
            raise Unavailable(_NAME, "a frontend sent us to what is no address") from None
        if parts.scheme != self._cluster.scheme or not await self._ours(frontend, at):
            raise Unavailable(_NAME, f"a frontend sent us to {at}, which is not of the cluster; see `backends`")
        return at

    async def _ours(self, frontend: Frontend, at: str) -> bool:
        if at in self._told or at in {other.authority for other in self._cluster.frontends}:
            return True
        if self._told:
            return False
        if at not in self._listed:
            self._listed = await self._backends(frontend)
        return at in self._listed

    async def _backends(self, frontend: Frontend) -> frozenset[str]:
        url = f"{self._cluster.scheme}://{frontend.authority}/api/backends"
        async with self._session.get(url, allow_redirects=False) as response:
            try:
                listed = msgspec.json.decode(await response.read(), type=_Backends).data.backends
            except msgspec.DecodeError:
                return frozenset()
        return frozenset(Frontend(backend.ip, backend.http_port).authority for backend in listed)


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    body = await response.read()
    if response.status in (401, 403):
        raise Refused(known=response.status == 403)
    try:
        return msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError:
        raise Unavailable(_NAME, f"no Doris answers (HTTP {response.status})") from None


def _judge(answer: _Answer) -> None:
    """Return if the rows are kept."""
    match answer.status, answer.existing_job_status:
        case ("Success" | "Publish Timeout", _):  # what is committed will be seen, if only later
            return
        case ("Label Already Exists", "FINISHED" | "VISIBLE" | "COMMITTED"):
            return
        case ("Label Already Exists", _):
            raise _Running
    raise _failure(answer.message)


def _failure(message: str) -> PluginError | BadRequest:
    """Return what to raise for a load that failed. Never quotes the server: it quotes rows."""
    if any(sign in message for sign in _NO_ROOM):
        return Full(_NAME, "the servers have no room left")
    if any(sign in message for sign in _UNREADABLE):
        return BadRequest(f"{_NAME}: a row does not fit its table")
    return Unavailable(_NAME, "the load failed on the servers")
