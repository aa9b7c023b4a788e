"""Counts as a page of HTML with charts in SVG, made here so that a browser need run nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from pydicom.uid import UID

from dicomnode.model.warehouse import Holding, Span, Use
from dicomnode.services.statistics import Counted

STYLE = """
:root { color-scheme: light dark; --bar: #2c6fbb; --soft: #8885; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 1.5rem auto; padding: 0 1rem; }
h2 { margin: 2rem 0 .4rem; font-size: 1.15rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .15rem .6rem .15rem 0; border-bottom: 1px solid var(--soft); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 35%; }
rect { fill: var(--bar); }
line { stroke: var(--soft); }
text { font: 11px system-ui, sans-serif; fill: currentColor; }
p.none { opacity: .7; }
"""

_TITLES = {
    "day": "Received by day",
    "modality": "Received by modality",
    "ae_title": "Received by AE title",
    "transfer_syntax": "Received by transfer syntax",
    "user": "Requests by user",
    "route": "Requests by route",
}
_WIDTH, _HEIGHT, _FOOT = 960, 180, 18
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def page(tenant: str, span: Span, counts: Sequence[Counted]) -> str:
    """Return the page; whatever came from outside is escaped."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>dicomnode: statistics</title><style>{STYLE}</style>",
        f"<h1>Statistics of {escape(tenant)}</h1>",
        _form(span),
        *(_section(counted) for counted in counts),
        '<p>The same for programs: <a href="/api/v1/statistics?by=day">/api/v1/statistics</a>. Days are in UTC.</p>',
    ]
    return "\n".join(parts)


def _form(span: Span) -> str:
    return (
        '<form method="get" action="/statistics">'
        f'<label>from <input type="date" name="since" value="{escape(span.since)}"></label> '
        f'<label>until before <input type="date" name="until" value="{escape(span.until)}"></label> '
        "<button>show</button></form>"
    )


def _section(counted: Counted) -> str:
    title = f"<h2>{_TITLES[counted.by]}</h2>"
    if not counted.rows:
        return title + '<p class="none">nothing</p>'
    more = counted.labels - len(counted.rows)
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    if counted.by == "day":
        return title + _columns([each for each in counted.rows if isinstance(each, Holding)]) + _table(counted) + rest
    return title + _table(counted) + rest


def _columns(days: Sequence[Holding]) -> str:
    """Return a chart of bytes by day, the oldest first; each column tells its figures when pointed at."""
    ordered = sorted(days, key=lambda day: day.label)
    greatest = max((day.bytes for day in ordered), default=0) or 1
    step = _WIDTH / max(len(ordered), 1)
    bars = []
    for place, day in enumerate(ordered):
        height = day.bytes / greatest * (_HEIGHT - _FOOT - 4)
        told = f"{day.label}: {day.objects} objects, {day.studies} studies, {_size(day.bytes)}"
        bars.append(
            f'<rect x="{place * step:.1f}" y="{_HEIGHT - _FOOT - height:.1f}" width="{max(step - 2, 1):.1f}"'
            f' height="{height:.1f}"><title>{escape(told)}</title></rect>'
        )
    first, last = escape(ordered[0].label), escape(ordered[-1].label)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" aria-label="bytes received by day">'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT - _FOOT}" y2="{_HEIGHT - _FOOT}"/>{"".join(bars)}'
        f'<text x="0" y="{_HEIGHT - 4}">{first}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{last}</text></svg>'
    )


def _table(counted: Counted) -> str:
    shown = list(map(_cells, counted.rows))
    greatest = max((weight for _, weight in shown), default=0) or 1
    heads = _HOLDING if isinstance(counted.rows[0], Holding) else _USE
    head = "".join(f'<th class="n">{name}</th>' for name in heads)
    lines = [f"<tr><th>{counted.by.replace('_', ' ')}</th>{head}<th></th></tr>"]
    name = _NAMES.get(counted.by, str)
    for (cells, weight), label in zip(shown, [row.label for row in counted.rows], strict=True):
        figures = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        lines.append(f"<tr><td>{escape(name(label)) or '(none)'}</td>{figures}{_bar(weight / greatest)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _bar(share: float) -> str:
    width = max(share * 100, 0.3)
    return (
        '<td class="bar"><svg width="100%" height="12" aria-hidden="true">'
        f'<rect width="{width:.1f}%" height="12"/></svg></td>'
    )


_HOLDING = ("objects", "studies", "size")
_USE = ("requests", "failed", "sent", "mean ms")


def _cells(row: Holding | Use) -> tuple[Sequence[str], int]:
    """Return the figures of a row as text, and what its bar is as long as."""
    if isinstance(row, Holding):
        return (f"{row.objects}", f"{row.studies}", _size(row.bytes)), row.bytes
    mean_ms = 1000 * row.seconds / max(row.requests, 1)
    return (f"{row.requests}", f"{row.failures}", _size(row.bytes), f"{mean_ms:.1f}"), row.requests


def _syntax(uid: str) -> str:
    name = UID(uid).name if uid else ""
    return f"{name} ({uid})" if name != uid else uid


_NAMES: dict[str, Callable[[str], str]] = {"transfer_syntax": _syntax}


def _size(count: int) -> str:
    """Return a number of bytes with a unit."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
