"""Index again what storage has and the database lacks. No node may be running on the data folder."""

from __future__ import annotations

import argparse
import json

import msgspec

from dicomnode import log
from dicomnode.cli import loop
from dicomnode.cli.offline import counting, indexing
from dicomnode.cli.options import config_of
from dicomnode.config import Config
from dicomnode.node import opened
from dicomnode.services.sweep import Sweep, Swept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Sweep; return 0, or 1 where objects are not whole."""
    config = config_of(arguments)
    log.set_up(config.node.log, "error")
    swept = loop.run(sweep(config))
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(swept)))
        return 1 if swept.incomplete else 0
    print(f"{swept.objects} objects, {swept.published} indexed again, {len(swept.incomplete)} not whole")
    for key in swept.incomplete:
        print(f"  not whole (its sender was never told of a success): {key}")
    return 1 if swept.incomplete else 0


async def sweep(config: Config) -> Swept:
    """Sweep the data folder of `config`, and index what was found."""
    async with opened(config) as backends, indexing(config, backends):
        with counting("objects") as count:
            return await Sweep(backends.storage, backends.broker, backends.database).run(count)
