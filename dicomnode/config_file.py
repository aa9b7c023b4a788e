"""The configuration file, read. Precedence: default < file < `--set`."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from dicomnode.config import Config, PluginTable, parse_peer
from dicomnode.config_rules import contradictions
from dicomnode.errors import ConfigError


class Faults(ConfigError):
    """Every fault of a configuration at once, in `all`."""

    def __init__(self, faults: Sequence[ConfigError]) -> None:
        super().__init__(faults[0].path, faults[0].problem, faults[0].hint)
        self.all = tuple(faults)


def read_config(file: Path | None, sets: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of `file` (None: the defaults), changed by `table.key=value` words in `sets`.

    `"$NAME"` as a whole string value, and `${NAME}` within one, is taken from `environ`, in a url quoted.

    Raises: Faults, with one fault a table at least.
    """
    raw = _read_toml(file) if file else {}
    faults: list[ConfigError] = []
    _try(faults, lambda: _apply_sets(raw, sets))
    tables: dict[str, Any] = {}
    for name, value in raw.items():
        _try(faults, lambda name=name, value=value: tables.update({name: _convert(name, value, environ)}))  # type: ignore[misc]
    if faults:
        raise Faults(faults)
    config = _with_tls_of_peers(Config(**tables))
    faults.extend(contradictions(config))
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
    if not isinstance(value, str):
        return value
    if whole := _WHOLE.fullmatch(value):
        return _told_by(environ, whole[1], path)
    in_url = "://" in value  # where a password with @ or / must not look like more of the url
    return _PART.sub(
        lambda part: quote(word, safe="") if (word := _told_by(environ, part[1], path)) and in_url else word, value
    )


_WHOLE, _PART = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)"), re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _told_by(environ: Mapping[str, str], name: str, path: str) -> str:
    if name not in environ:
        raise ConfigError(path, f"the environment has no {name}", f"export {name}=…")
    return environ[name]


def _peer(path: str, told: object) -> object:
    """Turn `AET@host:port` into a peer's table."""
    if not isinstance(told, str):
        return told
    try:
        return msgspec.to_builtins(parse_peer(told))
    except ValueError as error:
        raise ConfigError(path, str(error)) from None


def _with_tls_of_peers(config: Config) -> Config:
    """Put what `tls = true` of a peer means in its place, so that a peer's table says all."""
    tls, own = config.node.tls, config.storescp.tls
    if not tls.certificate:
        tls = msgspec.structs.replace(tls, certificate=own.certificate, key=own.key)
    replace = msgspec.structs.replace
    peers = {name: replace(peer, tls=tls) if peer.tls is True else peer for name, peer in config.peers.items()}
    return replace(config, peers=peers, node=replace(config.node, tls=tls))


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
