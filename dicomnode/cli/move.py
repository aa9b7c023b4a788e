"""Have a peer send objects to an AE title (C-MOVE)."""

from __future__ import annotations

import argparse

from dicomnode.cli import loop
from dicomnode.cli.keys import add_keys, add_level, keys_of
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.cli.retrieving import followed, report
from dicomnode.config import Config, is_ae_title
from dicomnode.dimse import peer
from dicomnode.dimse.peer import connect
from dicomnode.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("--to", required=True, metavar="AET", help="where to; the peer must know this AE title")
    add_level(parser)
    add_keys(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Follow it to its end; return 0 where every object was sent."""
    if not is_ae_title(arguments.to):
        raise ConfigError("--to", f"{arguments.to!r} is no AE title: 1 to 16 printable ASCII characters, no backslash")
    last = loop.run(_move(arguments, config_of(arguments), keys_of(arguments.keys)))
    return report(last, as_json=arguments.json)


async def _move(arguments: argparse.Namespace, config: Config, keys: dict[str, str]) -> peer.Progress | None:
    table, calling = peer_of(arguments, config)
    async with connect(table, calling, config.storescp.limits) as connected:
        going = connected.move(keys, arguments.to, arguments.level.upper(), root=arguments.root)
        return await followed(going, "moving")
