"""Index again what storage has and the database lacks; record again what the warehouse lacks.

No node may be running on the data folder.
"""

from __future__ import annotations

import argparse
import json

import msgspec

from dicomnode import log
from dicomnode.backends import opened
from dicomnode.cli import loop
from dicomnode.cli.accounting import unrecorded
from dicomnode.cli.offline import caught_up, counting, indexing
from dicomnode.cli.options import config_of
from dicomnode.config import Config
from dicomnode.node import viewers
from dicomnode.services.sweep import Sweep, Swept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Sweep; return 0, or 1 where objects are not whole."""
    config = config_of(arguments)
    log.set_up(config.node.log, "error")
    swept, recorded = loop.run(sweep(config))
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(swept) | {"recorded": recorded}))
        return 1 if swept.incomplete else 0
    print(
        f"{swept.objects} objects, {swept.published} indexed again, {recorded} recorded again, "
        f"{len(swept.incomplete)} not whole"
    )
    for key in swept.incomplete:
        print(f"  not whole (its sender was never told of a success): {key}")
    return 1 if swept.incomplete else 0


async def sweep(config: Config) -> tuple[Swept, int]:
    """Sweep the data folder of `config`; return what was found, and how many indexed objects are recorded again."""
    async with opened(config) as backends:
        found = Sweep(backends.storage, backends.outgoing, backends.database, viewers(config))
        async with indexing(config, backends):
            with counting("objects") as count:
                swept = await found.run(count)
        if config.warehouse.use == "off":
            return swept, 0
        await caught_up(config, backends.broker)
        async with indexing(config, backends):
            with counting("rows") as count:
                recorded = 0
                async for location in unrecorded(config, backends, count):
                    recorded += await found.tell_again(location)
        return swept, recorded
