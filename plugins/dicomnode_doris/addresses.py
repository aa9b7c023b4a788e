"""Where the frontends of a cluster are, and who we are there."""

from __future__ import annotations

from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from dicomnode.errors import ConfigError

URL = "warehouse.options.url"
_EXAMPLE = "doris://user:password@fe1:8030,fe2:8030/database"
_SCHEMES = {"doris": "http", "doris+https": "https"}
_PORT = 8030


class Frontend(msgspec.Struct, frozen=True):
    """One frontend: its name or address, and the port of its HTTP interface."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Return host and port as a url has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Cluster(msgspec.Struct, frozen=True):
    """All frontends, any of which will do."""

    scheme: str
    frontends: tuple[Frontend, ...]
    user: str
    password: str
    database: str

    def __repr__(self) -> str:
        return f"Cluster(database={self.database!r})"  # the rest may hold secrets


def cluster(url: str, password: str) -> Cluster:
    """Return what `url` says, with `password` where it has none. Raises: ConfigError."""
    try:
        return _cluster(url, password)
    except (KeyError, ValueError) as error:
        raise ConfigError(URL, "is no address of Doris", _EXAMPLE) from error


def _cluster(url: str, password: str) -> Cluster:
    kind, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    who, _, where = authority.rpartition("@")
    user, _, secret = who.partition(":")
    database = unquote(path)
    if not database or set(database) & set("/?#`"):
        raise ValueError(path)
    frontends = tuple(_frontend(urlsplit(f"//{told}")) for told in where.split(","))
    return Cluster(_SCHEMES[kind], frontends, unquote(user) or "root", unquote(secret) or password, database)


def _frontend(parts: SplitResult) -> Frontend:
    if not parts.hostname:
        raise ValueError(parts.netloc)
    return Frontend(parts.hostname, parts.port or _PORT)
