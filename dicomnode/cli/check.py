"""Report every fault of the configuration with its path, then ping each backend."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from dicomnode import plug
from dicomnode.backends import PORTS, Occupied, locked, make_openings
from dicomnode.cli import loop
from dicomnode.cli.options import config_of
from dicomnode.cli.running_node import RunningNode
from dicomnode.config import Config
from dicomnode.config_file import Faults
from dicomnode.dimse import tls
from dicomnode.errors import ConfigError, NodeError
from dicomnode.opening import Opening
from dicomnode.ports.plugin import Plugin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 0 if there is nothing to mend, 1 otherwise."""
    try:
        config = config_of(arguments)
    except Faults as faults:
        return _report({"configuration": [str(fault) for fault in faults.all]}, as_json=arguments.json)
    faulty = [str(fault) for fault in (*_plugin_faults(config), *tls.faults_of(config))]
    findings: dict[str, list[str]] = {"configuration": faulty}
    if not faulty:
        findings |= loop.run(_pings(config))
    return _report(findings, as_json=arguments.json)


def _plugin_faults(config: Config) -> list[ConfigError]:
    faults: list[ConfigError] = []
    for port, kind in PORTS.items():
        try:
            plug.make(port, kind, getattr(config, port), Path(config.node.data_dir))
        except ConfigError as fault:
            faults.append(fault)
    return faults


async def _pings(config: Config) -> dict[str, list[str]]:
    """Return the faults of each backend; of a node that is running, as it tells them itself."""
    try:
        with locked(Path(config.node.data_dir)):
            openings = make_openings(config)
            return dict(zip(openings, await asyncio.gather(*map(_opened, openings.values())), strict=True))
    except Occupied as occupied:
        try:
            return RunningNode.of(config).readiness()
        except NodeError:
            return {"node": [str(occupied)]}
    except NodeError as error:
        return {"node": [str(error)]}


async def _opened(opening: Opening[Plugin]) -> list[str]:
    try:
        async with AsyncExitStack() as stack:
            await (await opening.try_once(stack)).ping()
    except NodeError as error:
        return [str(error)]
    return []


def _report(findings: dict[str, list[str]], *, as_json: bool) -> int:
    sound = not any(findings.values())
    if as_json:
        print(json.dumps({"sound": sound, "findings": findings}))
        return 0 if sound else 1
    for what, faults in findings.items():
        print(f"{what:<14} {'sound' if not faults else ''}".rstrip())
        for fault in faults:
            print(f"  {fault}", file=sys.stderr)
    return 0 if sound else 1
