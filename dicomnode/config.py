"""The configuration as frozen structs, and the one function that reads it.

Precedence: default < file < `--set`. Every table refuses unknown keys. Every key stands, with its default and unit, in
config.toml.example; a test keeps it so.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from dicomnode.errors import ConfigError

ROLES = ("storescp", "server", "consumer")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration."""


class NodeTable(Table, frozen=True):
    """What concerns the whole process."""

    data_dir: str = "dicomnode-data"
    tenant: str = "default"
    log: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class LimitsTable(Table, frozen=True):
    """What a DIMSE peer may ask of us. Sizes in bytes, times in seconds."""

    associations: int = 100
    associations_per_peer: int = 50
    pdu_received: int = 16 * 1024 * 1024
    command_set: int = 64 * 1024
    data_set: int = 16 * 1024 * 1024 * 1024
    held_in_memory: int = 4 * 1024 * 1024
    artim_s: float = 30.0
    idle_s: float = 600.0
    message_s: float = 3600.0
    drain_s: float = 30.0


class StoreScpTable(Table, frozen=True):
    """The DIMSE door."""

    host: str = "127.0.0.1"
    port: int = 11112
    ae_title: str = "DICOMNODE"
    max_pdu: int = 1024 * 1024
    any_called_ae_title: bool = True
    accept_unknown_peers: bool | None = None
    accept_unknown_sop_classes: bool = True
    accept_private_transfer_syntaxes: bool = False
    limits: LimitsTable = LimitsTable()


class PeerTable(Table, frozen=True):
    """A DICOM node that we know."""

    ae_title: str
    host: str
    port: int


class AuthTable(Table, frozen=True):
    """Who may use the web door: whoever bears one of `tokens`; with no tokens, anyone who reaches it."""

    tokens: tuple[str, ...] = ()


class CorsTable(Table, frozen=True):
    """From which web pages a browser may use the web door. `*` is any."""

    origins: tuple[str, ...] = ()


class ServerLimitsTable(Table, frozen=True):
    """What a web client may ask of us. Sizes in bytes, times in seconds."""

    request_body: int = 64 * 1024 * 1024 * 1024
    part: int = 16 * 1024 * 1024 * 1024
    part_headers: int = 16 * 1024
    parts: int = 100_000
    held_in_memory: int = 4 * 1024 * 1024
    idle_s: float = 120.0
    results: int = 1000
    drain_s: float = 30.0


class ServerTable(Table, frozen=True):
    """The web door."""

    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str = ""
    accept_anyone: bool = False
    auth: AuthTable = AuthTable()
    cors: CorsTable = CorsTable()
    limits: ServerLimitsTable = ServerLimitsTable()


class IngestTable(Table, frozen=True):
    """How objects are taken in, at whichever door. `max_header` and `carried` in bytes."""

    duplicates: Literal["keep-first", "replace"] = "keep-first"
    strict: bool = False
    max_header: int = 64 * 1024 * 1024
    carried: int = 32 * 1024


class ConsumerTable(Table, frozen=True):
    """How received objects are indexed. Times in seconds."""

    batch: int = 500
    linger_s: float = 0.1
    attempts: int = 5
    catch_up_s: float = 5.0


class PluginTable(Table, frozen=True):
    """Which plugin stands behind a port, and its options (checked by the plugin)."""

    use: str
    options: dict[str, Any] = {}


class Config(Table, frozen=True):
    """The whole configuration."""

    node: NodeTable = NodeTable()
    storescp: StoreScpTable = StoreScpTable()
    peers: dict[str, PeerTable] = {}
    server: ServerTable = ServerTable()
    ingest: IngestTable = IngestTable()
    consumer: ConsumerTable = ConsumerTable()
    storage: PluginTable = PluginTable("files")
    broker: PluginTable = PluginTable("sqlite")
    database: PluginTable = PluginTable("sqlite")
    cache: PluginTable = PluginTable("memory")


class Faults(ConfigError):
    """Every fault of a configuration at once, in `all`."""

    def __init__(self, faults: Sequence[ConfigError]) -> None:
        super().__init__(faults[0].path, faults[0].problem, faults[0].hint)
        self.all = tuple(faults)


def read_config(file: Path | None, sets: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of `file` (None: the defaults), changed by `table.key=value` words in `sets`.

    `"$NAME"` as a whole string value is taken from `environ`. Raises: Faults, with one fault a table at least.
    """
    raw = _read_toml(file) if file else {}
    faults: list[ConfigError] = []
    _try(faults, lambda: _apply_sets(raw, sets))
    tables: dict[str, Any] = {}
    for name, value in raw.items():
        _try(faults, lambda name=name, value=value: tables.update({name: _convert(name, value, environ)}))  # type: ignore[misc]
    if faults:
        raise Faults(faults)
    config = Config(**tables)
    faults.extend(_contradictions(config))
    if faults:
        raise Faults(faults)
    return config


def _try(faults: list[ConfigError], step: Callable[[], object]) -> None:
    try:
        step()
    except ConfigError as fault:
        faults.append(fault)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Faults([ConfigError(str(file), "there is no such file", "cp config.toml.example config.toml")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Faults([ConfigError(str(file), f"cannot be read: {error}")]) from error
    except tomllib.TOMLDecodeError as error:
        raise Faults([ConfigError(str(file), f"is not TOML: {error}")]) from error


def _apply_sets(raw: dict[str, Any], sets: Sequence[str]) -> None:
    for word in sets:
        path, equals, text = word.partition("=")
        names = path.strip().split(".")
        if not equals or len(names) < 2 or not all(names):
            raise ConfigError(f"--set {word}", "is not table.key=value", "for example --set server.port=9090")
        table = raw
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {word}", f"{name} is not a table")
        table[names[-1]] = _value(text)


def _value(text: str) -> object:
    """Return `text` read as a TOML value, or as a string where it is none (so that quotes may be left out)."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


_FIELDS = {field.name: field for field in msgspec.structs.fields(Config)}

_PLUGIN_TABLES = {name: field.default.use for name, field in _FIELDS.items() if isinstance(field.default, PluginTable)}


def _convert(name: str, value: object, environ: Mapping[str, str]) -> object:
    if name not in _FIELDS:
        raise ConfigError(name, "there is no such table", _nearest(name, _FIELDS))
    value = _expand(name, value, environ)
    if name in _PLUGIN_TABLES and isinstance(value, dict):
        value = {"use": _PLUGIN_TABLES[name]} | value
    if name == "peers" and isinstance(value, dict):
        value = {peer: _peer(f"peers.{peer}", told) for peer, told in value.items()}
    try:
        return msgspec.convert(value, _FIELDS[name].type)
    except msgspec.ValidationError as error:
        raise _told(name, value, str(error)) from None


def _expand(path: str, value: object, environ: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        return {key: _expand(f"{path}.{key}", inner, environ) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(f"{path}[{i}]", inner, environ) for i, inner in enumerate(value)]
    if isinstance(value, str) and re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", value):
        if value[1:] not in environ:
            raise ConfigError(path, f"the environment has no {value[1:]}", f"export {value[1:]}=…")
        return environ[value[1:]]
    return value


def _peer(path: str, told: object) -> object:
    """Turn `AET@host:port` into a peer's table."""
    if not isinstance(told, str):
        return told
    try:
        return msgspec.to_builtins(parse_peer(told))
    except ValueError as error:
        raise ConfigError(path, str(error)) from None


def parse_peer(text: str) -> PeerTable:
    """Return the peer that `AET@host:port` names; an IPv6 address stands in brackets. Raises: ValueError."""
    found = re.fullmatch(r"([^@\\]{1,16})@(\[[0-9A-Fa-f:.]+\]|[^@:\[\]\s]+):([0-9]{1,5})", text)
    if not found or not 0 < int(found[3]) < 65536:
        raise ValueError(f"{text!r} is not AET@host:port, for example SCANNER@192.0.2.7:104")
    return PeerTable(found[1].strip(), found[2].strip("[]"), int(found[3]))


def _told(table: str, value: object, problem: str) -> ConfigError:
    """Turn a sentence of msgspec into the path of the key and a hint."""
    sentence, _, where = problem.partition(" - at `$")
    path = table + where.rstrip("`")
    unknown = re.search(r"unknown field `([^`]+)`", sentence)
    if unknown:
        return ConfigError(f"{path}.{unknown[1]}", "there is no such key", _nearest(unknown[1], _keys(table, where)))
    return ConfigError(path, sentence[:1].lower() + sentence[1:])


def _keys(table: str, where: str) -> list[str]:
    kind: Any = _FIELDS[table].type
    for name in re.findall(r"\.([a-z_]+)", where):
        kind = {field.name: field.type for field in msgspec.structs.fields(kind)}.get(name)
    return [field.name for field in msgspec.structs.fields(kind)] if isinstance(kind, type) else []


def _nearest(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known)) if known else ""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a socket bound to `host`, or whether an address is this machine's."""
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "localhost")


def _contradictions(config: Config) -> list[ConfigError]:
    """Return what each key allows and the keys together do not."""
    faults = []
    server, scp = config.server, config.storescp
    if not is_loopback(server.host) and not server.auth.tokens and not server.accept_anyone:
        faults.append(
            ConfigError(
                "server.host",
                f"{server.host} can be reached from other machines and nobody would be asked who they are",
                "set server.auth.tokens, or server.accept_anyone = true if that is meant",
            )
        )
    if not is_loopback(scp.host) and not config.peers and scp.accept_unknown_peers is None:
        faults.append(
            ConfigError(
                "storescp.host",
                f"{scp.host} can be reached from other machines and no peer is known",
                "list [peers], or set storescp.accept_unknown_peers = true if that is meant",
            )
        )
    faults.extend(_out_of_range(config))
    return faults


def _out_of_range(config: Config) -> list[ConfigError]:
    scp = config.storescp
    rules = (
        ("storescp.port", 0 <= scp.port < 65536, "must be 0 to 65535"),
        ("server.port", 0 <= config.server.port < 65536, "must be 0 to 65535"),
        (
            "storescp.ae_title",
            is_ae_title(scp.ae_title),
            "must be 1 to 16 printable ASCII characters, no backslash",
        ),
        (
            "storescp.max_pdu",
            4096 <= scp.max_pdu <= scp.limits.pdu_received,
            "must be 4096 to limits.pdu_received",
        ),
        (
            "node.tenant",
            is_tenant(config.node.tenant),
            "must be 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit",
        ),
        ("consumer.batch", config.consumer.batch >= 1, "must be at least 1"),
        ("consumer.attempts", config.consumer.attempts >= 1, "must be at least 1"),
    )
    return [ConfigError(path, problem) for path, holds, problem in rules if not holds]


def is_ae_title(text: str) -> bool:
    """Tell whether `text` is an AE title (PS3.5 6.2, VR AE), without its padding."""
    return 0 < len(text.strip()) <= 16 and all(" " <= c <= "~" and c != "\\" for c in text)


def is_tenant(text: str) -> bool:
    """Tell whether `text` may name a tenant; it then is safe as part of a path."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) is not None
