"""The results as tables on stdout: medians, medians of ratios, targets, troubles."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from bench.figures import Taken, Trouble, absolute, ratio
from bench.targets import Verdict

_NAMES = ("node", "orthanc", "dcmtk", "bare")
_PIPED_WIDTH = 150


def print_results(taken: list[Taken], troubles: list[Trouble], verdicts: Iterable[Verdict]) -> None:
    """Print everything that was measured, and everything that was not with its reason."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    for where in dict.fromkeys(one.where for one in taken):
        console.print(_results(where, [one for one in taken if one.where == where]))
    console.print(_targets(verdicts))
    for trouble in troubles:
        who = f"{trouble.measurement}, {trouble.contestant}, {trouble.where}, round {trouble.round}"
        console.print(f"NO FIGURE: {who}: {trouble.reason}", markup=False, highlight=False, soft_wrap=True)


def _results(where: str, taken: list[Taken]) -> Table:
    table = Table(title=f"{where}: medians; x is how many times better the node was, the median over the rounds")
    for heading in ("", "unit"):
        table.add_column(heading)
    for heading in (*_NAMES, *(f"x {name}" for name in _NAMES[1:]), "node p50", "node p95"):
        table.add_column(heading, justify="right")
    for row, unit in dict.fromkeys((one.figure.row, one.figure.unit) for one in taken):
        values = [_number(absolute(taken, row, name)) for name in _NAMES]
        ratios = [_number(ratio(taken, row, name)) for name in _NAMES[1:]]
        table.add_row(row, unit, *values, *ratios, *_latencies(taken, row))
    return table


def _latencies(taken: list[Taken], row: str) -> tuple[str, str]:
    figures = [one.figure for one in taken if one.figure.row == row and one.contestant == "node"]
    if not figures or figures[-1].p50_ms is None:
        return "", ""
    return f"{figures[-1].p50_ms:.1f} ms", f"{figures[-1].p95_ms:.1f} ms"


def _targets(verdicts: Iterable[Verdict]) -> Table:
    table = Table(title="targets, with default settings")
    for heading in ("", "where", "against"):
        table.add_column(heading)
    for heading in ("wanted", "measured"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for verdict in verdicts:
        target = verdict.target
        said = "not measured" if verdict.measured is None else "met" if verdict.met else "NOT MET"
        wanted = f"{target.wanted:g} x"
        table.add_row(target.row, verdict.where, target.against, wanted, _number(verdict.measured), said)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
