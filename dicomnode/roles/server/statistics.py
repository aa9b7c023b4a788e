"""What was received and what was asked for, counted: /api/v1/statistics for programs, /statistics for people."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from dicomnode.errors import BadRequest
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.charts import STYLE, page
from dicomnode.services.statistics import MOST, span_of

ROOT = "/api/v1/statistics"

_PARAMETERS = frozenset({"by", "since", "until", "limit"})
_DAYS, _SHOWN = 30, 20
_encode = msgspec.json.Encoder().encode

# The page brings one style sheet of its own and nothing else: no script, no picture, nothing from elsewhere.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


async def counted(call: Call) -> web.Response:
    """Count what was received or asked for, of one tenant."""
    query = call.request.query
    if unknown := [name for name in query if name not in _PARAMETERS]:
        raise BadRequest(f"there are {len(unknown)} parameters other than {', '.join(sorted(_PARAMETERS))}")
    span = span_of(call.tenant, query.get("since", ""), query.get("until", ""))
    found = await call.services.statistics.count(query.get("by", "day"), span, _limit(call))
    return call.answer(_encode(found), "application/json")


async def shown(call: Call) -> web.Response:
    """Show the counts of one tenant as charts, without scripts; of the last 30 days if no others are asked for."""
    query = call.request.query
    since = query.get("since", (datetime.now(UTC) - timedelta(days=_DAYS - 1)).date().isoformat())
    span = span_of(call.tenant, since, query.get("until", ""))
    counts = await call.services.statistics.count_all(span, max(_SHOWN, _DAYS))
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "private, no-store"}
    return call.answer(page(call.tenant, span, counts).encode(), "text/html; charset=utf-8", headers=headers)


def _limit(call: Call) -> int:
    text = call.request.query.get("limit") or str(min(MOST, call.table.limits.results))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= MOST):
        raise BadRequest(f"limit must be 1 to {MOST}")
    return int(text)
