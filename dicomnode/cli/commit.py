"""Ask a peer whether it is committed to keep objects (storage commitment), and wait for its report.

The report comes on the same association. With --port it may also come on one that the peer asks for, at that port of
this machine, which the peer must know as the address of our AE title; many archives report in this way only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from dicomnode.cli import loop
from dicomnode.cli.candidates import found_in
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.config import Config
from dicomnode.dicom.uid import is_uid
from dicomnode.dimse.commitment import Committed, Reference
from dicomnode.dimse.outgoing import read_outgoing
from dicomnode.dimse.peer import connect
from dicomnode.errors import BadInstance, ConfigError

_LISTED = 20
_REASONS = {
    0x0110: "processing failure",
    0x0112: "the peer does not have it",
    0x0119: "the peer has it as another SOP class",
    0x0122: "the peer does not commit to this SOP class",
    0x0131: "the transaction UID was used before",
    0x0213: "the peer has no room",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("objects", metavar="OBJECT", nargs="+", help="file, folder, or SOPClassUID:SOPInstanceUID")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="take the report also at this port of ours")
    parser.add_argument("--host", default="", help="address of ours to listen at; default: storescp.host")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait; default 60")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 0 where the peer is committed to every object."""
    config = config_of(arguments)
    references = list(dict.fromkeys(_references(arguments.objects)))
    if not references:
        raise ConfigError("OBJECT", "nothing there is a DICOM object")
    report = loop.run(_commit(arguments, config, references))
    if arguments.json:
        print(json.dumps(_as_json(report)))
    else:
        print(f"{len(report.committed)} committed, {len(report.failed)} not")
        for reference, reason in report.failed[:_LISTED]:
            print(f"  {reference.sop_instance_uid}: {_REASONS.get(reason, 'failure reason')} ({reason:#06x})")
    return 0 if not report.failed and len(report.committed) >= len(references) else 1


async def _commit(arguments: argparse.Namespace, config: Config, references: Sequence[Reference]) -> Committed:
    peer, calling = peer_of(arguments, config)
    listen = (arguments.host or config.storescp.host, arguments.port) if arguments.port else None
    async with connect(peer, calling, config.storescp.limits) as connected:
        return await connected.commit(references, arguments.timeout, listen)


def _references(words: Sequence[str]) -> Iterator[Reference]:
    for word in words:
        sop_class, colon, instance = word.partition(":")
        if colon and is_uid(sop_class) and is_uid(instance):
            yield Reference(sop_class, instance)
            continue
        for candidate in found_in([Path(word)]):
            try:
                one = read_outgoing(candidate.path)
            except BadInstance as error:
                if candidate.named:
                    raise ConfigError(word, str(error)) from error
            else:
                yield Reference(one.sop_class_uid, one.sop_instance_uid)


def _as_json(report: Committed) -> dict[str, object]:
    return {
        "committed": [reference.sop_instance_uid for reference in report.committed],
        "failed": [
            {"sop_instance_uid": reference.sop_instance_uid, "reason": reason} for reference, reason in report.failed
        ],
    }
