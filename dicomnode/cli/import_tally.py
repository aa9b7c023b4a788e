"""What became of each file of an import, counted, shown while it goes on and summed up at the end."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicomnode.cli.candidates import Candidate


class Outcome(StrEnum):
    """What became of one file."""

    NEW = "new"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    REFUSED = "refused"


_LISTED = 20


class Tally:
    """Counts outcomes; `shown` is a progress bar on standard error, if it is a terminal."""

    def __init__(self, count: int) -> None:
        self._counts: Counter[Outcome] = Counter()
        self._reasons: list[tuple[str, str]] = []
        self._warned = 0
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("importing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._files = self._progress.add_task("files", total=count)

    def __enter__(self) -> Tally:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, candidate: Candidate, outcome: Outcome, reason: str) -> None:
        """Count one file. A file that is no DICOM and was only met in a folder is passed over, not refused."""
        if outcome is Outcome.REFUSED and reason.startswith("not DICOM") and not candidate.named:
            outcome = Outcome.SKIPPED
        self._counts[outcome] += 1
        if outcome is Outcome.REFUSED:
            self._reasons.append((candidate.name, reason))
        elif outcome is Outcome.NEW and reason:
            self._warned += 1
        self._progress.advance(self._files)

    def report(self, *, as_json: bool) -> int:
        """Print the summary; return the exit code: 1 where anything was refused."""
        if as_json:
            refused = [{"file": name, "reason": reason} for name, reason in self._reasons]
            print(json.dumps({outcome: self._counts[outcome] for outcome in Outcome} | {"refusals": refused}))
            return 1 if self._reasons else 0
        print(", ".join(f"{self._counts[outcome]} {outcome}" for outcome in Outcome) + self._aside())
        for name, reason in self._reasons[:_LISTED]:
            print(f"  refused {name}: {reason}")
        if len(self._reasons) > _LISTED:
            print(f"  … and {len(self._reasons) - _LISTED} more (--json lists all)")
        return 1 if self._reasons else 0

    def _aside(self) -> str:
        return f"; {self._warned} of the new ones with values that break the standard" if self._warned else ""
