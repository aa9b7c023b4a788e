"""Fetch objects from a peer into a folder (C-GET), a Part 10 file each. Nothing that is there is overwritten."""

from __future__ import annotations

import argparse
from pathlib import Path

from dicomnode.cli import loop
from dicomnode.cli.keys import add_keys, add_level, keys_of
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.cli.received import Received
from dicomnode.cli.retrieving import followed, report
from dicomnode.config import Config
from dicomnode.dimse import peer
from dicomnode.dimse.peer import connect
from dicomnode.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("--to", required=True, metavar="FOLDER", type=Path, help="where to; made if it is not there")
    add_level(parser)
    add_keys(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Follow it to its end; return 0 where every object is there."""
    config, keys = config_of(arguments), keys_of(arguments.keys)
    try:
        arguments.to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--to", f"{arguments.to} cannot be made: {error.strerror}") from error
    received = Received(arguments.to)
    last = loop.run(_get(arguments, config, keys, received))
    code = report(last, as_json=arguments.json)
    if not arguments.json:
        print(f"{received.written} written to {arguments.to}, {received.known} were there already")
    return code


async def _get(
    arguments: argparse.Namespace, config: Config, keys: dict[str, str], received: Received
) -> peer.Progress | None:
    table, calling = peer_of(arguments, config)
    async with connect(table, calling, config.storescp.limits) as connected:
        going = connected.get(keys, received.keep, arguments.level.upper(), root=arguments.root)
        return await followed(going, "fetching")
