"""Compare storage and database, both ways. No node may be running on the data folder."""

from __future__ import annotations

import argparse
import json

import msgspec

from dicomnode import log
from dicomnode.cli import loop
from dicomnode.cli.offline import counting, indexing
from dicomnode.cli.options import config_of
from dicomnode.cli.sweep import sweep
from dicomnode.config import Config
from dicomnode.node import opened
from dicomnode.services.fsck import Checked, Fsck

_LISTED = 20
_MEANING = {
    "missing": "indexed, but not in storage: restore from a backup, or have it sent again",
    "damaged": "not as it was received: restore from a backup, or have it sent again",
    "unknown": "in storage, but not indexed: dicomnode fsck --repair, or dicomnode sweep",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--digests", action="store_true", help="read every object and compare its SHA-256 as well")
    parser.add_argument("--repair", action="store_true", help="index what is in storage and not indexed, first")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare; return 0 if storage and database agree, 1 otherwise."""
    config = config_of(arguments)
    log.set_up(config.node.log, "error")
    if arguments.repair:
        loop.run(sweep(config))
    checked = loop.run(_check(config, digests=arguments.digests))
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(checked) | {"sound": checked.sound}))
    else:
        _print(checked)
    return 0 if checked.sound else 1


async def _check(config: Config, *, digests: bool) -> Checked:
    async with opened(config) as backends:
        async with indexing(config, backends):
            pass  # what an earlier process had not indexed yet is no fault
        with counting("objects") as count:
            return await Fsck(backends.storage, backends.database).run(digests=digests, told=count)


def _print(checked: Checked) -> None:
    print(f"{checked.objects} objects indexed: {'sound' if checked.sound else 'NOT SOUND'}")
    for what, meaning in _MEANING.items():
        keys: tuple[str, ...] = getattr(checked, what)
        if keys:
            print(f"{len(keys)} {what} ({meaning})")
            print(*(f"  {key}" for key in keys[:_LISTED]), sep="\n")
