"""What the node is to reach with default settings, and whether it did."""

from __future__ import annotations

import msgspec

from bench.figures import Taken, ratio
from bench.measurements import FIND, GET, MOVE, pipeline_row, store_row


class Target(msgspec.Struct, frozen=True):
    """In `row` the node is to be at least `wanted` times as good as `against`, in every place of `places`."""

    row: str
    against: str
    wanted: float
    places: tuple[str, ...] = ("tmpfs", "disk")


class Verdict(msgspec.Struct, frozen=True):
    """A target in one place with the ratio measured; None where it was not."""

    target: Target
    where: str
    measured: float | None

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.measured is not None and self.measured >= self.target.wanted


TARGETS = (
    Target(store_row("512 KB", 1), "orthanc", 3),
    Target(store_row("12 KB", 1), "orthanc", 4),
    Target(store_row("512 KB", 1), "dcmtk", 1, ("tmpfs",)),
    Target(store_row("12 KB", 1), "dcmtk", 1.3, ("tmpfs",)),
    Target("C-STORE 12 KB, sender without TCP_NODELAY", "orthanc", 30),
    Target(store_row("512 KB", 8), "bare", 0.8, ("disk",)),
    *(Target(f"STOW {size}, {each} a request", "orthanc", 3) for size in ("512 KB", "12 KB") for each in (1, 50)),
    Target("WADO frames 512 KB, 4 connections", "orthanc", 5),
    Target(FIND, "orthanc", 2),
    *(Target(row, "orthanc", 3) for row in (GET, MOVE)),
    *(Target(pipeline_row(size, count), "orthanc", 3) for size in ("512 KB", "12 KB") for count in (1, 8)),
)


def verdicts(taken: list[Taken], places: list[str]) -> list[Verdict]:
    """Return a verdict for each target and each of `places` that it is for, in the table's order."""
    found = []
    for target in TARGETS:
        for where in places:
            if where in target.places:
                here = [one for one in taken if one.where == where]
                found.append(Verdict(target, where, ratio(here, target.row, target.against)))
    return found
