"""Compare storage and database, both ways, and the warehouse with them. No node may be running on the data folder."""

from __future__ import annotations

import argparse
import json

import msgspec

from dicomnode import log
from dicomnode.backends import opened
from dicomnode.cli import loop
from dicomnode.cli.accounting import Accounted, account
from dicomnode.cli.offline import caught_up, counting, indexing
from dicomnode.cli.options import config_of
from dicomnode.cli.sweep import sweep
from dicomnode.config import Config
from dicomnode.services.fsck import Checked, Fsck

_LISTED = 20
_MEANING = {
    "missing": "indexed, but not in storage: restore from a backup, or have it sent again",
    "damaged": "not as it was received: restore from a backup, or have it sent again",
    "unknown": "in storage, but not indexed: dicomnode fsck --repair, or dicomnode sweep",
    "orphans": "in another transfer syntax, of an object that is gone or by a crash not finished: may be deleted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--digests", action="store_true", help="read every object and compare its SHA-256 as well")
    parser.add_argument("--repair", action="store_true", help="index and record what was not, first")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare; return 0 if storage, database and warehouse agree, 1 otherwise."""
    config = config_of(arguments)
    log.set_up(config.node.log, "error")
    if arguments.repair:
        loop.run(sweep(config))
    checked, accounted = loop.run(_check(config, digests=arguments.digests))
    sound = checked.sound and not accounted.unrecorded
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(checked) | msgspec.to_builtins(accounted) | {"sound": sound}))
    else:
        print(f"{checked.objects} objects indexed: {'sound' if sound else 'NOT SOUND'}")
        _print(checked)
        _print_account(accounted)
    return 0 if sound else 1


async def _check(config: Config, *, digests: bool) -> tuple[Checked, Accounted]:
    async with opened(config) as backends:
        async with indexing(config, backends):
            pass  # what an earlier process had not indexed yet is no fault
        await caught_up(config, backends.broker)
        with counting("objects") as count:
            checked = await Fsck(backends.storage, backends.database).run(digests=digests, told=count)
        with counting("rows") as count:
            return checked, await account(config, backends, count)


def _print(checked: Checked) -> None:
    if checked.representations:
        print(f"{checked.representations} kept in another transfer syntax as well")
    for what, meaning in _MEANING.items():
        keys: tuple[str, ...] = getattr(checked, what)
        if keys:
            print(f"{len(keys)} {what} ({meaning})")
            print(*(f"  {key}" for key in keys[:_LISTED]), sep="\n")


def _print_account(accounted: Accounted) -> None:
    if accounted.unrecorded:
        print(f"{accounted.unrecorded} unrecorded (indexed, but not in the warehouse: dicomnode fsck --repair)")
        print(*(f"  {key}" for key in accounted.unrecorded_first), sep="\n")
    for side, counts in accounted.counts.items():
        print(f"{side}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
