"""List the plugins that are installed: name, port, class, version, capabilities, importable or why not."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import EntryPoint

import msgspec
from rich.console import Console
from rich.table import Table

from dicomnode import plug
from dicomnode.backends import CAPABILITIES, PORTS
from dicomnode.errors import ConfigError


class Listed(msgspec.Struct, frozen=True):
    """One plugin, as the list shows it."""

    port: str
    name: str
    cls: str
    version: str
    capabilities: tuple[str, ...]
    problem: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list; return 0."""
    found = [_listed(port, point) for port in PORTS for point in plug.installed(port)]
    if arguments.json:
        print(json.dumps([msgspec.to_builtins(row) for row in found]))
        return 0
    table = Table("port", "name", "class", "version", "can also", "importable")
    for row in found:
        table.add_row(row.port, row.name, row.cls, row.version, ", ".join(row.capabilities), row.problem or "yes")
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width that words must be broken for
    console.print(table)
    return 0


def _listed(port: str, point: EntryPoint) -> Listed:
    version = point.dist.version if point.dist else ""
    try:
        found = plug.find(port, point.name)
    except ConfigError as fault:
        return Listed(port, point.name, point.value, version, (), fault.hint or fault.problem)
    capabilities = tuple(kind.__name__ for kind in CAPABILITIES if issubclass(found, kind))
    return Listed(port, point.name, point.value, version, capabilities, "")
