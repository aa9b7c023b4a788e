"""Ask the warehouse what was received and what was asked for, or print the statements that make its tables.

dicomnode warehouse report [--by day] [--since 2026-01-01] [--until 2026-02-01] [--limit 20] [--json]
dicomnode warehouse ddl [--pull --broker kafka://host:9092]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicomnode import plug
from dicomnode.backends import Occupied, locked
from dicomnode.cli import loop
from dicomnode.cli.options import config_of
from dicomnode.cli.running_node import RunningNode
from dicomnode.config import Config
from dicomnode.errors import ConfigError, PeerError
from dicomnode.model.warehouse import Span
from dicomnode.ports.warehouse import Pulling, Warehouse
from dicomnode.services.statistics import GROUPINGS, MOST, Statistics, span_of

Count = Mapping[str, Any]

_NOT_PRINTABLE = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f]")  # an AE title of a peer is not to move our cursor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("what", choices=("report", "ddl"), help="counts, or statements")
    report = parser.add_argument_group("report")
    report.add_argument(
        "--by", action="append", choices=list(GROUPINGS), metavar="WHAT", help=f"repeatable; of {', '.join(GROUPINGS)}"
    )
    report.add_argument("--since", default="", metavar="DAY", help="the first day, YYYY-MM-DD, in UTC")
    report.add_argument("--until", default="", metavar="DAY", help="the day after the last")
    report.add_argument("--limit", type=int, default=20, metavar="N", help="rows of each table")
    report.add_argument("--tenant", default="", help="default: node.tenant")
    report.add_argument("--json", action="store_true", help="print the counts as JSON")
    ddl = parser.add_argument_group("ddl")
    ddl.add_argument("--pull", action="store_true", help="also what has the warehouse fetch from a Kafka by itself")
    ddl.add_argument("--broker", default="", metavar="URL", help="that Kafka; default: broker.options.url")


def run(arguments: argparse.Namespace) -> int:
    """Print; return 0."""
    config = config_of(arguments)
    return _ddl(arguments, config) if arguments.what == "ddl" else _report(arguments, config)


def _ddl(arguments: argparse.Namespace, config: Config) -> int:
    warehouse = _made(config)
    if not isinstance(warehouse, Pulling):
        hint = "clickhouse and doris can; the tables of others are made when they are opened"
        raise ConfigError("warehouse.use", f"{config.warehouse.use!r} cannot fetch messages by itself", hint)
    broker = arguments.broker or (config.broker.options.get("url", "") if config.broker.use == "kafka" else "")
    if arguments.pull and not broker:
        raise ConfigError("broker.options.url", "no Kafka is known to fetch from", "--broker kafka://host:9092")
    for statement in warehouse.definitions(pull=arguments.pull, broker=broker):
        print(f"{statement.rstrip().rstrip(';')};\n")
    return 0


def _report(arguments: argparse.Namespace, config: Config) -> int:
    if not 0 < arguments.limit <= MOST:
        raise ConfigError("--limit", f"must be 1 to {MOST}")
    span = span_of(arguments.tenant or config.node.tenant, arguments.since, arguments.until)
    counts = loop.run(_counted(config, arguments.by or list(GROUPINGS), span, arguments.limit))
    if arguments.json:
        print(json.dumps(counts))
    else:
        for count in counts:
            _print(count)
    return 0


async def _counted(config: Config, by: Sequence[str], span: Span, limit: int) -> Sequence[Count]:
    """Return the counts by the warehouse itself; of a node that is running here, as that tells them."""
    try:
        with locked(Path(config.node.data_dir)):
            return await _counted_here(config, by, span, limit)
    except Occupied as occupied:
        node = msgspec.structs.replace(config.node, tenant=span.tenant)
        running = RunningNode.of(msgspec.structs.replace(config, node=node))
        try:
            return [running.statistics(each, span.since, span.until, limit) for each in by]
        except PeerError as unreachable:
            if config.warehouse.use in ("duckdb", "memory"):  # in a file or a process that is another's
                raise occupied from unreachable
            return await _counted_here(config, by, span, limit)
        finally:
            running.close()


async def _counted_here(config: Config, by: Sequence[str], span: Span, limit: int) -> Sequence[Count]:
    async with _made(config) as warehouse:
        statistics = Statistics(None if config.warehouse.use == "off" else warehouse)
        return [msgspec.to_builtins(await statistics.count(each, span, limit)) for each in by]


def _made(config: Config) -> Warehouse:
    made: Warehouse = plug.make("warehouse", Warehouse, config.warehouse, Path(config.node.data_dir))
    return made


def _print(count: Count) -> None:
    rows = count["rows"]
    names = [name for name in rows[0] if name != "label"] if rows else []
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        for row in rows:
            print(count["by"], _label(row), *(row[name] for name in names), sep="\t")
        return
    table = Table(count["by"].replace("_", " "), title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(Text(_label(row) or "(none)"), *(_figure(row[name]) for name in names))
    if rows:
        totals = count["totals"]
        table.add_section()
        table.add_row("all", *(_figure(totals[name]) if name in totals else "" for name in names))
    console.print(table)


def _label(row: Mapping[str, Any]) -> str:
    return _NOT_PRINTABLE.sub("?", str(row["label"]))


def _figure(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
