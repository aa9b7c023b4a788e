"""A name in the configuration becomes a plugin, ready to be entered."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec

from dicomnode.config import PluginTable
from dicomnode.errors import ConfigError, PluginMissing
from dicomnode.ports.plugin import Plugin


def installed(port: str) -> Iterator[EntryPoint]:
    """Yield the entry points of `port` ("storage", "broker" …), by name."""
    yield from sorted(entry_points(group=f"dicomnode.{port}"), key=lambda point: point.name)


def find(port: str, use: str) -> type[Plugin]:
    """Return the class that `use` names: a registered name, or `module:Class`. Raises: ConfigError, PluginMissing."""
    point = EntryPoint(use, use, f"dicomnode.{port}") if ":" in use else _registered(port, use)
    try:
        found = importlib.import_module(point.module)
    except ModuleNotFoundError as error:
        raise _missing(port, use, point.module, error) from error
    kind = getattr(found, point.attr, None)
    if not (isinstance(kind, type) and issubclass(kind, Plugin)):
        raise ConfigError(f"{port}.use", f"{point.value} is not a plugin class")
    return kind


def _registered(port: str, use: str) -> EntryPoint:
    known = {point.name: point for point in installed(port)}
    if use not in known:
        raise ConfigError(
            f"{port}.use", f"there is no {port} plugin {use!r}", f"known: {', '.join(known)}, or module:Class"
        )
    return known[use]


def _missing(port: str, use: str, module: str, error: ModuleNotFoundError) -> ConfigError:
    absent = error.name or ""
    if module == absent or module.startswith(absent + "."):
        return PluginMissing(f"{port}.use", f"there is no module {module}", "is it installed in this environment?")
    return PluginMissing(f"{port}.use", f"{use!r} needs {absent}", f"pip install 'dicomnode[{use}]'")


def make(port: str, kind: type[Any], table: PluginTable, data_dir: Path) -> Any:
    """Return the plugin of `table`, not yet entered; it is one of `kind`, the port's class.

    Raises: ConfigError, with the path of the option that is wrong.
    """
    found = find(port, table.use)
    if not issubclass(found, kind):
        raise ConfigError(f"{port}.use", f"{table.use!r} is not a {kind.__name__}")
    try:
        options = msgspec.convert(table.options, found.Options)
    except msgspec.ValidationError as error:
        raise _fault(port, found, str(error)) from None
    return found(options, data_dir)


def _fault(port: str, found: type[Plugin], problem: str) -> ConfigError:
    sentence, _, where = problem.partition(" - at `$")
    unknown = re.search(r"unknown field `([^`]+)`", sentence)
    path = f"{port}.options{where.rstrip('`')}"
    if unknown:
        known = ", ".join(field.name for field in msgspec.structs.fields(found.Options))
        return ConfigError(f"{path}.{unknown[1]}", "there is no such option", f"known: {known or 'none'}")
    return ConfigError(path, sentence[:1].lower() + sentence[1:])
