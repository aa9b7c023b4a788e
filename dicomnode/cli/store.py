"""Send files or folders to a peer (C-STORE), as they are, over one association or several."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicomnode.cli import loop
from dicomnode.cli.candidates import found_in
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.dimse.sender import Sent, store_files

_LISTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="file or folder")
    parser.add_argument("--associations", type=int, default=1, metavar="N", help="send over N at a time (default 1)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Send; return 0 if the peer keeps every object, 1 otherwise."""
    peer, calling = peer_of(arguments, config_of(arguments))
    paths = list(_files(arguments.paths))
    sent: list[Sent] = []
    console = Console(stderr=True)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=len(paths))

        def told(one: Sent) -> None:
            sent.append(one)
            progress.advance(task)

        loop.run(store_files(peer, calling, paths, told, associations=arguments.associations))
    return _report(sent, as_json=arguments.json)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for candidate in found_in(paths):
        if not candidate.member:
            yield candidate.path


def _report(sent: Sequence[Sent], *, as_json: bool) -> int:
    failed = [one for one in sent if not one.is_stored]
    warned = sum(one.is_stored and one.status != 0 for one in sent)
    if as_json:
        failures = [
            {"file": str(one.path), "status": one.status, "problem": one.problem, "transient": one.transient}
            for one in failed
        ]
        print(json.dumps({"stored": len(sent) - len(failed), "warnings": warned, "failures": failures}))
        return 1 if failed else 0
    print(f"{len(sent) - len(failed)} stored ({warned} with a warning), {len(failed)} failed")
    for one in failed[:_LISTED]:
        print(f"  {one.path}: {one.problem}" + (" (try again)" if one.transient else ""))
    return 1 if failed else 0
