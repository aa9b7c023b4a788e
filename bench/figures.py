"""The words of the results: what was measured, in which row of the table it stands, and which way is better."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Literal

import msgspec

Unit = Literal["inst/s", "match/s", "req/s", "MB/s", "s", "ms", "MB"]
_LOWER_IS_BETTER = ("s", "ms", "MB")


class Figure(msgspec.Struct, frozen=True):
    """One number of one run. Latencies in ms where single requests were timed."""

    row: str
    unit: Unit
    value: float
    objects: int = 0
    size_bytes: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


class Taken(msgspec.Struct, frozen=True):
    """A figure with where it comes from."""

    measurement: str
    contestant: str
    where: str
    round: int
    figure: Figure


class Trouble(msgspec.Struct, frozen=True):
    """A run that gave no figure, and why."""

    measurement: str
    contestant: str
    where: str
    round: int
    reason: str


def latencies(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile of `seconds`, in ms."""
    if len(seconds) < 2:
        return seconds[0] * 1000, seconds[0] * 1000
    return median(seconds) * 1000, quantiles(seconds, n=20, method="inclusive")[18] * 1000


def absolute(taken: list[Taken], row: str, contestant: str) -> float | None:
    """Return the median of a contestant's values in `row`; None where there is none."""
    values = [one.figure.value for one in taken if one.figure.row == row and one.contestant == contestant]
    return median(values) if values else None


def ratio(taken: list[Taken], row: str, against: str) -> float | None:
    """Return the median over the rounds of how many times better the node was than `against`; None without a pair."""
    rounds: dict[int, dict[str, Figure]] = {}
    for one in taken:
        if one.figure.row == row:
            rounds.setdefault(one.round, {})[one.contestant] = one.figure
    pairs = [(pair["node"], pair[against]) for pair in rounds.values() if "node" in pair and against in pair]
    ratios = [b.value / a.value if a.unit in _LOWER_IS_BETTER else a.value / b.value for a, b in pairs]
    return median(ratios) if ratios else None
