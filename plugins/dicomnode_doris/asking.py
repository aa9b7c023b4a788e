"""Questions and statements, in MySQL's protocol. A connection for each: they are few, and any frontend will do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

import asyncmy
from asyncmy.errors import MySQLError

from dicomnode.errors import ConfigError, NodeError, Unavailable
from dicomnode_doris.addresses import URL, Cluster, Frontend

_NAME = "doris"
_AT_ONCE = 4
# Numbers of MySQL's errors: the user or the password; the rights; a server that is not there, or was lost.
_REFUSED = {1045, 1698}
_MAY_NOT = {1044, 1142, 1143, 1227, 1370}
_AWAY = {2002, 2003, 2006, 2013, 1053}
_COPIES = "replication num"


class Refused(Exception):
    """The cluster does not know us, or we may not do this there."""

    def __init__(self, *, known: bool) -> None:
        super().__init__("may not" if known else "not known")
        self.known = known

    def must(self) -> ConfigError:
        """Return what the operator must do."""
        if self.known:
            return ConfigError(URL, "the user may not do what is needed", "see docs/backends.md")
        return ConfigError(URL, "the server refused the user or the password")

    def not_now(self) -> Unavailable:
        """Return what to raise where it worked before."""
        return Unavailable(_NAME, "the server no longer lets us in, or lets us do this")


class _Away(Exception):
    """This frontend does not answer; another may."""


class Frontends:
    """The frontends of a cluster, by MySQL's protocol."""

    def __init__(
        self, cluster: Cluster, *, port: int, timeout_s: float, connect_timeout_s: float, trust: ssl.SSLContext | None
    ) -> None:
        self._cluster = cluster
        self._port = port
        self._timeout_s = timeout_s
        self._connect_s = connect_timeout_s
        self._trust = trust
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._first = 0

    async def ask(self, text: str, values: Sequence[object] = ()) -> Sequence[tuple[Any, ...]]:
        """Return the rows of the answer; each %s of `text` stands for one of `values`, quoted.

        Raises: Unavailable, ConfigError, Refused.
        """
        frontends = self._cluster.frontends
        async with self._slots:
            for number in range(len(frontends)):
                index = (self._first + number) % len(frontends)
                try:
                    rows = await self._asked(frontends[index], text, values)
                except _Away:
                    continue
                self._first = index
                return rows
        raise Unavailable(_NAME, "no frontend can be reached")

    async def _asked(self, frontend: Frontend, text: str, values: Sequence[object]) -> Sequence[tuple[Any, ...]]:
        connection: Any = None
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await self._connect(frontend)
            async with asyncio.timeout(self._timeout_s + 2.0), connection.cursor() as cursor:
                await cursor.execute(text, tuple(values) or None)
                return list(await cursor.fetchall() or ())
        except TimeoutError:
            if connection is None:
                raise _Away from None
            raise Unavailable(_NAME, "the server took too long; ask for less, or set timeout_s") from None
        except MySQLError as error:
            raise _told(error) from None  # the server quotes statements
        except OSError as error:
            raise _Away from error
        finally:
            if connection is not None:
                connection.close()

    async def _connect(self, frontend: Frontend) -> Any:
        return await asyncmy.connect(
            host=frontend.host,
            port=self._port,
            user=self._cluster.user,
            password=self._cluster.password,
            charset="utf8mb4",
            connect_timeout=self._connect_s,
            autocommit=True,
            init_command=f"SET query_timeout = {max(1, int(self._timeout_s))}",
            ssl=self._trust,
        )


def _told(error: MySQLError) -> NodeError | Refused | _Away:
    """Return what to raise for a failure that the server tells of. Never quotes values."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if code in _REFUSED or code in _MAY_NOT:
        return Refused(known=code in _MAY_NOT)
    if code in _AWAY:
        return _Away()
    if _COPIES in str(error):
        return ConfigError("warehouse.options.replicas", "there are fewer backends than copies", "set it to fewer")
    return Unavailable(_NAME, f"the server failed with code {code}")
