"""How the node is: alive, ready, its metrics; and a page that says what is here."""

from __future__ import annotations

import asyncio

from aiohttp import web

from dicomnode import __version__, metrics
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.probe import ALIVE
from dicomnode.roles.server.readiness import readiness

_JSON = "application/json"


async def livez(call: Call) -> web.Response:
    """Tell that the process answers."""
    return call.answer(ALIVE, _JSON)


async def readyz(call: Call) -> web.Response:
    """Tell of each backend whether it answers; 503 when any does not that work cannot go on without."""
    status, told = await readiness(call.services.backends)
    return call.answer(told, _JSON, status)


async def exposition(call: Call) -> web.Response:
    """Give Prometheus its metrics."""
    await call.services.measure.refresh()
    metrics.TASKS.set(len(asyncio.all_tasks()))
    return call.answer(metrics.exposition(), metrics.CONTENT_TYPE)


_PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>dicomnode</title>
<h1>dicomnode {__version__}</h1>
<p>DICOMweb (PS3.18) is at <code>/dicomweb</code>:
<ul>
<li>search: <a href="/dicomweb/studies?limit=25">/dicomweb/studies</a>, /dicomweb/series, /dicomweb/instances
<li>retrieve: /dicomweb/studies/<i>UID</i>, with /series/<i>UID</i>, /instances/<i>UID</i>, /metadata, /frames/<i>n</i>
<li>store: POST multipart/related; type="application/dicom" to /dicomweb/studies
<li>WADO-URI: /dicomweb/wado?requestType=WADO&amp;objectUID=<i>UID</i>
<li>worklist: <a href="/api/v1/worklist">/api/v1/worklist</a>
<li>what was performed: <a href="/api/v1/performed">/api/v1/performed</a>
<li>statistics: <a href="/statistics">/statistics</a>, <a href="/api/v1/statistics">/api/v1/statistics</a>
</ul>
<p>Health: <a href="/livez">/livez</a>, <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a>.
"""


async def page(call: Call) -> web.Response:
    """Say what is here."""
    return call.answer(
        _PAGE.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": "default-src 'none'"}
    )
