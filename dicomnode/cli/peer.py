"""How a command names the peer it speaks to."""

from __future__ import annotations

import argparse

import msgspec

from dicomnode.config import Config, PeerTable, is_ae_title, parse_peer
from dicomnode.errors import ConfigError


def add_peer(parser: argparse.ArgumentParser) -> None:
    """Add the peer, whether to speak TLS, and the AE title that we call ourselves."""
    parser.add_argument("peer", metavar="PEER", help="AET@host:port, or a name from [peers]")
    parser.add_argument("--tls", action="store_true", help="speak TLS, as [node.tls] says")
    parser.add_argument("--aet", default="", help="our own AE title; default: storescp.ae_title")


def peer_of(arguments: argparse.Namespace, config: Config) -> tuple[PeerTable, str]:
    """Return the peer and our own AE title. Raises: ConfigError."""
    calling = arguments.aet or config.storescp.ae_title
    if not is_ae_title(calling):
        raise ConfigError("--aet", f"{calling!r} is no AE title: 1 to 16 printable ASCII characters, no backslash")
    peer = config.peers.get(arguments.peer) or _parsed(arguments.peer, config)
    if arguments.tls and not peer.tls:
        peer = msgspec.structs.replace(peer, tls=config.node.tls)
    return peer, calling


def _parsed(text: str, config: Config) -> PeerTable:
    try:
        return parse_peer(text)
    except ValueError as error:
        names = ", ".join(config.peers) or "none"
        raise ConfigError("PEER", f"{error}, nor a name from [peers]", f"known: {names}") from None
