"""What an operator may set, and what the driver makes of it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec

from dicomnode.errors import ConfigError

_HINT = "kafka://host:9092,host:9092, or kafka+ssl:// for TLS"
_PORT = "9092"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: kafka://host:port,host:port, with user:password@ before the hosts if need be; kafka+ssl:// for TLS.

    `username`, `password`: where the url has none; else the environment's KAFKA_USERNAME and KAFKA_PASSWORD. Without a
    user there is no SASL. `ca_file`: the authority of the servers' certificates, else the system's; `cert_file`,
    `key_file`: our own certificate. `partitions`, `replication` (-1: as the servers have it) and `retention_days` (0:
    the same) are for topics that are missing, and are made. `instance`: the name of this process in its groups, so that
    its restart within `session_s` moves no partition. `handling_s`: who handles one batch for longer is taken for
    stuck, and another gets it. `handover_s`: how long a batch in hand may hold up a new share-out. `fetch_wait_ms`: how
    long the servers keep a question for news before they say that there are none.
    """

    url: str = "kafka://localhost:9092"
    username: str = ""
    password: str = ""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    topic_prefix: str = ""
    group_prefix: str = "dicomnode."
    instance: str = ""
    partitions: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 12
    replication: int = -1
    retention_days: Annotated[float, msgspec.Meta(ge=0)] = 14
    idempotent: bool = True
    compression: Literal["zstd", "lz4", "snappy", "gzip", "none"] = "zstd"
    linger_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    batch_kib: Count = 256
    max_message_bytes: Count = 8 * 1024 * 1024
    prefetch_mib: Count = 16
    session_s: Positive = 10.0
    handling_s: Positive = 1800.0
    handover_s: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    fetch_wait_ms: Count = 500
    timeout_s: Positive = 10.0

    def __repr__(self) -> str:
        return f"Options(topic_prefix={self.topic_prefix!r}, group_prefix={self.group_prefix!r})"  # no secrets


class Address(msgspec.Struct, frozen=True):
    """What a url says."""

    servers: list[str]
    tls: bool
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Address({self.servers!r})"


def address(options: Options, environment: Mapping[str, str] = os.environ) -> Address:
    """Return where the servers are and who asks. Raises: ConfigError."""
    scheme, found, rest = options.url.partition("://")
    who, _, hosts = rest.rpartition("@")
    servers = [host if _has_port(host) else f"{host}:{_PORT}" for host in hosts.rstrip("/").split(",") if host]
    if not found or scheme not in ("kafka", "kafka+ssl") or not servers or set("/?#") & set(hosts.rstrip("/")):
        raise ConfigError("broker.options.url", "is no address of Kafka", _HINT)
    user, _, secret = who.partition(":")
    return Address(
        servers,
        scheme == "kafka+ssl",
        unquote(user) or options.username or environment.get("KAFKA_USERNAME", ""),
        unquote(secret) or options.password or environment.get("KAFKA_PASSWORD", ""),
    )


def _has_port(host: str) -> bool:
    name, _, port = host.rpartition(":")
    if port.isdecimal() and name:
        return True
    if port == host or host.endswith("]"):
        return False
    raise ConfigError("broker.options.url", "has a port that is no number", _HINT)


def connection(options: Options) -> dict[str, Any]:
    """Return what every client of the driver is told to reach the servers. Reads files. Raises: ConfigError."""
    told = address(options)
    arguments: dict[str, Any] = {"bootstrap_servers": told.servers, "client_id": "dicomnode", "retry_backoff_ms": 250}
    if told.tls:
        arguments["ssl_context"] = _tls(options)
    elif options.ca_file or options.cert_file or options.key_file:
        raise ConfigError("broker.options.url", "says nothing of TLS, and there are certificates", _HINT)
    if told.username:
        arguments |= {
            "sasl_mechanism": options.mechanism,
            "sasl_plain_username": told.username,
            "sasl_plain_password": told.password,
        }
    protocols = {(False, False): "PLAINTEXT", (True, False): "SSL", (False, True): "SASL_PLAINTEXT"}
    return {**arguments, "security_protocol": protocols.get((told.tls, bool(told.username)), "SASL_SSL")}


def _tls(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file or None)
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("broker.options", f"a certificate or key cannot be read: {error}") from error
    return context
