"""Ask a peer whether it is there (C-ECHO)."""

from __future__ import annotations

import argparse
import json
import time

from dicomnode.cli import loop
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.config import PeerTable
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.service import VERIFICATION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the answer; return 0 for success, 1 otherwise."""
    peer, calling = peer_of(arguments, config_of(arguments))
    status, seconds = loop.run(_echo(peer, calling))
    if arguments.json:
        print(json.dumps({"status": status, "seconds": round(seconds, 6)}))
    else:
        print(f"{peer.ae_title}@{peer.host}:{peer.port} answered {status:#06x} after {seconds * 1000:.1f} ms")
    return 0 if status == 0 else 1


async def _echo(peer: PeerTable, calling: str) -> tuple[int, float]:
    """Return the status, and how long association and echo took, in seconds."""
    started = time.perf_counter()
    asked = proposals([(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN))])
    async with Association.request(peer, calling, asked) as association:
        status = await association.echo()
        return status, time.perf_counter() - started
