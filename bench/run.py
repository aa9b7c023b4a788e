"""`python -m bench.run`: every measurement, contestants in turn, rounds over; tables on stdout, progress on stderr.

Exit codes: 0 everything was measured, 1 something was not, 2 usage. A missed target is a result, not a failure.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
from rich.console import Console

from bench.contestants import absent
from bench.data import prepare
from bench.figures import Figure, Taken, Trouble
from bench.machine import Machine, machine
from bench.measurements import Measurement, Setting, measurements
from bench.processes import Failed
from bench.table import print_results
from bench.targets import verdicts

_PROGRESS = Console(stderr=True, highlight=False)
_PREFIX = "dicomnode-bench-"
_IDLE = 0.7  # load average, one minute
_TROUBLES = (
    Failed,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    http.client.HTTPException,
    msgspec.MsgspecError,
    subprocess.SubprocessError,
)  # what a contestant, its answers or a sender can bring about


class Turn(msgspec.Struct, frozen=True):
    """One run of one contestant."""

    round: int
    where: str
    measurement: Measurement
    contestant: str


def main() -> int:
    """Measure what the arguments ask for and print it."""
    args = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    places = {where: {"tmpfs": args.tmpfs, "disk": args.disk}[where] for where in args.where}
    _PROGRESS.print("making the data (once) and reading it into the page cache")
    setting = Setting(prepare(args.data, *((200, 400) if args.quick else (1000, 2000))), 2 if args.quick else 5)
    missing = absent()
    for one in missing:
        _PROGRESS.print(f"{one.name} does not take part: {one.reason}")
    turns = list(_turns(args, {one.name for one in missing}))
    facts = machine(places)
    if facts.load_before > _IDLE:
        _PROGRESS.print(f"the load is {facts.load_before:.1f}: other programs are at work here, expect wild figures")
    with ExitStack() as stack:
        rooms = {
            where: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place)))
            for where, place in places.items()
        }
        taken, troubles = _take_all(turns, setting, rooms)
    if args.json:
        _write_json(args.json, taken, facts)
    print_results(taken, troubles, verdicts(taken, list(places)))
    return 1 if troubles or missing else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the node beside Orthanc and dcmtk.")
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[one.name for one in measurements()], default=[])
    parser.add_argument("--rounds", type=int, metavar="N", help="default 3, with --quick 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write one JSON line a figure")
    parser.add_argument("--where", type=_places, default="tmpfs,disk", help="default tmpfs,disk")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="default /dev/shm")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="default /var/tmp")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the objects to send are kept")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    return args


def _places(text: str) -> list[str]:
    places = text.split(",")
    if set(places) - {"tmpfs", "disk"}:
        raise argparse.ArgumentTypeError("tmpfs, disk or both with a comma")
    return places


def _turns(args: argparse.Namespace, missing: set[str]) -> Iterator[Turn]:
    """Yield the turns; who begins changes from round to round, so that nobody always follows the same one."""
    for number in range(args.rounds):
        for where in args.where:
            for measurement in measurements():
                if args.only and measurement.name not in args.only:
                    continue
                first = number % len(measurement.contestants)
                for contestant in measurement.contestants[first:] + measurement.contestants[:first]:
                    if contestant not in missing:
                        yield Turn(number + 1, where, measurement, contestant)


def _take_all(turns: list[Turn], setting: Setting, places: Mapping[str, Path]) -> tuple[list[Taken], list[Trouble]]:
    taken: list[Taken] = []
    troubles: list[Trouble] = []
    for done, turn in enumerate(turns, 1):
        name = (turn.measurement.name, turn.contestant, turn.where, turn.round)
        try:
            found = [Taken(*name, figure) for figure in _take(turn, setting, places[turn.where])]
        except _TROUBLES as error:
            troubles.append(Trouble(*name, f"{type(error).__name__}: {error}"))
            said = f"FAILED: {error}"
        else:
            taken.extend(found)
            said = f"{found[0].figure.value:,.1f} {found[0].figure.unit}"
        line = f"{done}/{len(turns)} round {turn.round} {turn.where} {turn.measurement.name} {turn.contestant}: {said}"
        _PROGRESS.print(line, markup=False, soft_wrap=True)
    return taken, troubles


def _take(turn: Turn, setting: Setting, place: Path) -> list[Figure]:
    """Run one turn in an empty folder, with nothing left to write by those before it."""
    folder = Path(tempfile.mkdtemp(dir=place))
    os.sync()
    try:
        return turn.measurement.take(setting, turn.contestant, folder)
    finally:
        empty(folder)


def empty(folder: Path) -> None:
    """Give the room of all files below `folder` back, but leave them there.

    ext4 uses no inode again for minutes after its deletion, and looks at all of them for each new file: after 4,000
    deletions every contestant that follows takes half a millisecond more an object.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def _write_json(file: Path, taken: list[Taken], facts: Machine) -> None:
    lines = []
    for one in taken:
        line = msgspec.to_builtins(one)
        figure = line.pop("figure")
        lines.append(msgspec.json.encode({**line, **figure, "machine": facts}))
    file.write_bytes(b"".join(line + b"\n" for line in lines))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
