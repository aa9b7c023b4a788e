"""Send files or folders to a peer (C-STORE), over one association or several.

An object goes as it is, or uncompressed where the peer takes it in no other way. What may succeed later is tried again:
a peer that is away or out of resources, a lost association.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicomnode.cli import loop
from dicomnode.cli.candidates import found_in
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.config import Config
from dicomnode.dicom.transcode import TARGETS
from dicomnode.dicom.transfer_syntax import of
from dicomnode.dimse.outgoing import Outgoing
from dicomnode.dimse.retry import Retry
from dicomnode.dimse.sender import OnResult, Sending, Sent, store_files
from dicomnode.errors import ConfigError
from dicomnode.services.transcode import Transcode

_LISTED = 20
_SYNTAXES = dict(zip(("explicit", "implicit", "deflated", "big-endian"), TARGETS, strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="file or folder")
    parser.add_argument("--associations", type=int, default=1, metavar="N", help="send over N at a time (default 1)")
    parser.add_argument("--attempts", type=int, default=5, metavar="N", help="try up to N times (default 5)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-transcode", action="store_true", help="send objects as they are or not at all")
    how.add_argument(
        "--propose",
        action="append",
        default=[],
        metavar="SYNTAX",
        help=f"offer this beside the stored transfer syntax: {', '.join(_SYNTAXES)}; repeatable, the best first "
        "(default: explicit, then implicit)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Send; return 0 if the peer keeps every object, 1 otherwise."""
    config = config_of(arguments)
    targets = _targets(arguments)
    paths = list(_files(arguments.paths))
    sent: list[Sent[Outgoing]] = []
    console = Console(stderr=True)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("sending", total=len(paths))

            def told(one: Sent[Outgoing]) -> None:
                sent.append(one)
                progress.advance(task)

            loop.run(_store(arguments, config, targets, paths, told))
    except KeyboardInterrupt:
        _report(sent, as_json=arguments.json)
        raise
    return _report(sent, as_json=arguments.json)


async def _store(
    arguments: argparse.Namespace,
    config: Config,
    targets: Sequence[str],
    paths: Sequence[Path],
    told: OnResult[Outgoing],
) -> None:
    peer, calling = peer_of(arguments, config)
    async with AsyncExitStack() as stack:
        transcoder = await stack.enter_async_context(Transcode(targets=targets)) if targets else None
        retry = Retry(max(1, arguments.attempts))
        sending = Sending(arguments.associations, retry, transcoder, limits=config.storescp.limits)
        await store_files(peer, calling, paths, told, sending)


def _targets(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.no_transcode:
        return ()
    targets = tuple(_SYNTAXES.get(word, word) for word in arguments.propose or ("explicit", "implicit"))
    for word, uid in zip(arguments.propose, targets, strict=False):
        if uid not in TARGETS:
            known = ", ".join(_SYNTAXES)
            raise ConfigError("--propose", f"nothing can be encoded as {word}", f"known: {known}")
    return targets


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for candidate in found_in(paths):
        if not candidate.member:
            yield candidate.path


def _report(sent: Sequence[Sent[Outgoing]], *, as_json: bool) -> int:
    failed = [one for one in sent if not one.is_stored]
    warned = sum(one.is_warning for one in sent)
    changed = [one for one in sent if one.is_stored and one.transfer_syntax_uid != one.sendable.transfer_syntax_uid]
    if as_json:
        failures = [
            {"file": str(one.sendable.path), "status": one.status, "problem": one.problem, "transient": one.transient}
            for one in failed
        ]
        told = {"stored": len(sent) - len(failed), "warnings": warned, "transcoded": len(changed), "failures": failures}
        print(json.dumps(told))
        return 1 if failed else 0
    print(f"{len(sent) - len(failed)} stored ({warned} with a warning), {len(failed)} failed")
    if changed:
        names = ", ".join(sorted({of(one.transfer_syntax_uid).name for one in changed}))
        print(f"{len(changed)} of them were sent as {names}")
    for one in failed[:_LISTED]:
        print(f"  {one.sendable.path}: {one.problem}" + (" (try again)" if one.transient else ""))
    return 1 if failed else 0
