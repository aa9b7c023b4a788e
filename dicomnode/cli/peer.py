"""How a command names the peer it speaks to."""

from __future__ import annotations

import argparse

from dicomnode.config import Config, PeerTable, parse_peer
from dicomnode.errors import ConfigError


def add_peer(parser: argparse.ArgumentParser) -> None:
    """Add the peer, and the AE title that we call ourselves."""
    parser.add_argument("peer", metavar="PEER", help="AET@host:port, or a name from [peers]")
    parser.add_argument("--aet", default="", help="our own AE title; default: storescp.ae_title")


def peer_of(arguments: argparse.Namespace, config: Config) -> tuple[PeerTable, str]:
    """Return the peer and our own AE title. Raises: ConfigError."""
    calling = arguments.aet or config.storescp.ae_title
    if known := config.peers.get(arguments.peer):
        return known, calling
    try:
        return parse_peer(arguments.peer), calling
    except ValueError as error:
        names = ", ".join(config.peers) or "none"
        raise ConfigError("PEER", f"{error}, nor a name from [peers]", f"known: {names}") from None
