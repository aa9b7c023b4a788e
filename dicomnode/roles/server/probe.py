"""Small doors that tell how a process is: one of its own, and one that stands in for the web door while it starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from dicomnode import metrics
from dicomnode.roles.server.access import Access
from dicomnode.roles.server.listening import Listening
from dicomnode.roles.server.problem import MEDIA_TYPE, HttpProblem, encode, problem_of
from dicomnode.roles.server.readiness import Answering, readiness

ALIVE = b'{"status":"alive"}'

_HEADERS = {"X-Content-Type-Options": "nosniff", "Server": "dicomnode", "Connection": "close"}
_JSON = "application/json"
_LATER = {"Retry-After": "5"}
_IDLE_S = 10.0
_PARTING_S = 2.0
_LOOK_S = 0.02

Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Probe:
    """Answers on the sockets of `listening`, each connection once. Entering opens it, leaving hangs up."""

    name = "health"

    def __init__(self, listening: Listening, answer: Answer) -> None:
        self._listening = listening
        self._answer = answer
        self._http: web.Server | None = None

    @property
    def address(self) -> str:
        """Where it is, as a URL."""
        return self._listening.address

    async def __aenter__(self) -> Self:
        self._http = web.Server(self._handle, access_log=None, keepalive_timeout=_IDLE_S)
        await self._listening.serve(self._http)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(0.0)

    async def run(self) -> None:
        """Answer until cancelled."""
        await asyncio.Event().wait()

    async def close(self, most_s: float = _PARTING_S) -> None:
        """Hang up on whoever is connected, those who are still to be answered after up to `most_s` seconds."""
        if self._http is None:
            return
        until = time.monotonic() + most_s
        while self._http.connections and time.monotonic() < until:  # noqa: ASYNC110 -- they are aiohttp's
            await asyncio.sleep(_LOOK_S)
        await self._http.shutdown(_LOOK_S)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        try:
            response = await self._answer(request)
        except HttpProblem as problem:
            told = problem_of(problem)
            response = web.Response(
                body=encode(told), status=told.status, content_type=MEDIA_TYPE, headers=problem.headers
            )
        response.headers.update(_HEADERS)
        response.force_close()
        return response


def waiting(access: Access, backends: Callable[[], Mapping[str, Answering]]) -> Answer:
    """Return what answers for a web door that is not open yet: alive, not ready, and come again."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/livez":
            return web.Response(body=ALIVE, content_type=_JSON)
        access.check(request.headers)
        if request.path == "/readyz":
            _, told = await readiness(backends(), started=False)
            return web.Response(body=told, status=503, content_type=_JSON, headers=_LATER)
        raise HttpProblem(503, "the node is starting", "GET /readyz says what it waits for", _LATER)

    return answer


def health(
    backends: Callable[[], Mapping[str, Answering]],
    started: Callable[[], bool],
    measured: Callable[[], Awaitable[None]],
) -> Answer:
    """Return what answers for the health door: alive, ready or not, and metrics that `measured` brings up to date."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/livez":
            return web.Response(body=ALIVE, content_type=_JSON)
        if request.path == "/readyz":
            status, told = await readiness(backends(), started=started())
            return web.Response(body=told, status=status, content_type=_JSON)
        if request.path == "/metrics":
            await measured()
            metrics.TASKS.set(len(asyncio.all_tasks()))
            return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})
        raise HttpProblem(404, "there is no such resource", "/livez, /readyz and /metrics are here")

    return answer
