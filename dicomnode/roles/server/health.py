"""How the node is: alive, ready, its metrics; and a page that says what is here."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from dicomnode import __version__, metrics
from dicomnode.errors import NodeError
from dicomnode.ports.cache import Cache
from dicomnode.ports.plugin import Plugin
from dicomnode.roles.server.call import Call

_PING_S = 5.0
_JSON = "application/json"


async def livez(call: Call) -> web.Response:
    """Tell that the process answers."""
    return call.answer(b'{"status":"alive"}', _JSON)


async def readyz(call: Call) -> web.Response:
    """Tell of each backend whether it answers; 503 when any does not that work cannot go on without."""
    backends = call.services.backends
    problems = dict(zip(backends, await asyncio.gather(*map(_ping, backends.values())), strict=True))
    for name, problem in problems.items():
        metrics.BACKEND_UP.labels(name).set(not problem)
    ready = not any(problem for name, problem in problems.items() if not isinstance(backends[name], Cache))
    told = {
        "status": ("degraded" if any(problems.values()) else "ready") if ready else "not ready",
        "backends": {name: {"up": not problem, "problem": problem} for name, problem in problems.items()},
    }
    return call.answer(msgspec.json.encode(told), _JSON, 200 if ready else 503)


async def _ping(backend: Plugin) -> str:
    try:
        async with asyncio.timeout(_PING_S):
            await backend.ping()
    except TimeoutError:
        return f"no answer within {_PING_S:g} s"
    except NodeError as error:
        return str(error)
    return ""


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
</ul>
<p>Health: <a href="/livez">/livez</a>, <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a>.
"""


async def page(call: Call) -> web.Response:
    """Say what is here."""
    return call.answer(
        _PAGE.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": "default-src 'none'"}
    )
