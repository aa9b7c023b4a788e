"""Take in files, folders, ZIPs or DICOMDIRs, with a progress bar and a summary.

Works on the data folder itself, or, where a node is running on it, through that node's web door (STOW-RS).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from dicomnode import log
from dicomnode.backends import Occupied
from dicomnode.cli import loop
from dicomnode.cli.candidates import Candidate, found_in
from dicomnode.cli.import_local import Told, import_local
from dicomnode.cli.import_tally import Outcome, Tally
from dicomnode.cli.options import config_of
from dicomnode.cli.running_node import RunningNode
from dicomnode.config import Config
from dicomnode.dicom.part10 import read_file_meta
from dicomnode.errors import BadInstance

_HEAD = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="file, folder, ZIP or DICOMDIR")
    parser.add_argument("--url", default="", help="import into the node at this address, for example http://host:8080")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Import; return 0 if nothing was refused, 1 otherwise."""
    config = config_of(arguments)
    log.set_up(config.node.log, "warning")
    with Tally(sum(1 for _ in found_in(arguments.paths))) as tally:
        _import(config, arguments, tally.add)
    return tally.report(as_json=arguments.json)


def _import(config: Config, arguments: argparse.Namespace, told: Told) -> None:
    if not arguments.url:
        try:
            return loop.run(import_local(config, found_in(arguments.paths), told))
        except Occupied:
            pass  # a node runs on this folder; it takes the files in through its door
    node = RunningNode.of(config, arguments.url)
    try:
        _import_remote(node, found_in(arguments.paths), config.server.limits.part, told)
    finally:
        node.close()


def _import_remote(node: RunningNode, candidates: Iterator[Candidate], most: int, told: Told) -> None:
    for candidate in candidates:
        try:
            told(candidate, *_send(node, candidate, most))
        except BadInstance as error:
            told(candidate, Outcome.REFUSED, str(error))


def _send(node: RunningNode, candidate: Candidate, most: int) -> tuple[Outcome, str]:
    with candidate.open(most) as file:
        meta = read_file_meta(file.read(_HEAD), complete=True)
        assert meta is not None
        known = bool(meta.sop_instance_uid) and meta.sop_instance_uid in node.known([meta.sop_instance_uid])
        size = file.seek(0, 2)
        file.seek(0)
        outcome = node.store(file, size)
    if outcome.failure:
        return Outcome.REFUSED, outcome.failure
    return (Outcome.DUPLICATE if known else Outcome.NEW), ""
