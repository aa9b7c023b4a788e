"""The one place every request passes: route, token, tenant, errors, metrics, log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from aiohttp import web

from dicomnode import log, metrics
from dicomnode.config import ServerTable
from dicomnode.errors import NodeError
from dicomnode.roles.server import frames, health, qido, statistics, steps, wado
from dicomnode.roles.server.access import Access
from dicomnode.roles.server.accessed import Accesses, sent
from dicomnode.roles.server.call import Call, Services
from dicomnode.roles.server.problem import MEDIA_TYPE, HttpProblem, Problem, encode, problem_of, unforeseen
from dicomnode.roles.server.routes import Route, Routes
from dicomnode.roles.server.stow import Stow

_LOG = log.get("server")
_LEVELS = logging.getLogger("server")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})

_ROOT = "/dicomweb"
_STUDY = f"{_ROOT}/studies/{{study}}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"


def table(stow: Stow) -> tuple[Route, ...]:
    """Return every route of the door."""
    return (
        Route("GET", "/", health.page),
        Route("GET", "/livez", health.livez, open=True),
        Route("GET", "/readyz", health.readyz),
        Route("GET", "/metrics", health.exposition),
        Route("GET", f"{_ROOT}/studies", qido.studies, service="find"),
        Route("GET", f"{_ROOT}/series", qido.series, service="find"),
        Route("GET", f"{_ROOT}/instances", qido.instances, service="find"),
        Route("GET", f"{_STUDY}/series", qido.series, service="find"),
        Route("GET", f"{_STUDY}/instances", qido.instances, service="find"),
        Route("GET", f"{_SERIES}/instances", qido.instances, service="find"),
        Route("GET", _STUDY, wado.study_or_series, service="retrieve"),
        Route("GET", _SERIES, wado.study_or_series, service="retrieve"),
        Route("GET", _INSTANCE, wado.instance, service="retrieve"),
        Route("GET", f"{_STUDY}/metadata", wado.metadata, service="describe"),
        Route("GET", f"{_SERIES}/metadata", wado.metadata, service="describe"),
        Route("GET", f"{_INSTANCE}/metadata", wado.metadata, service="describe"),
        Route("GET", f"{_INSTANCE}/frames/{{frames}}", frames.frame_list, service="retrieve"),
        Route("GET", f"{_INSTANCE}/bulkdata/{{path*}}", frames.bulk, service="retrieve"),
        Route("GET", f"{_ROOT}/wado", wado.uri, service="retrieve"),
        Route("POST", f"{_ROOT}/studies", stow.store),
        Route("POST", _STUDY, stow.store),
        Route("GET", steps.ROOT, steps.listed, service="worklist"),
        Route("POST", steps.ROOT, steps.create, service="worklist"),
        Route("GET", f"{steps.ROOT}/{{entry}}", steps.entry, service="worklist"),
        Route("PUT", f"{steps.ROOT}/{{entry}}", steps.replace, service="worklist"),
        Route("DELETE", f"{steps.ROOT}/{{entry}}", steps.delete, service="worklist"),
        Route("GET", "/api/v1/performed", steps.performed, service="performed"),
        Route("GET", "/api/v1/performed/{step}", steps.performed_one, service="performed"),
        Route("GET", statistics.ROOT, statistics.counted, service="statistics"),
        Route("GET", "/statistics", statistics.shown, service="statistics"),
    )


_ALWAYS = {"X-Content-Type-Options": "nosniff", "Server": "dicomnode"}


class Door:
    """Answers every request, whatever happens behind it."""

    def __init__(self, server: ServerTable, tenant: str, services: Services, accesses: Accesses | None = None) -> None:
        self._table = server
        self._tenant = tenant
        self._services = services
        self._accesses = accesses
        self._access = Access(server, tenant)
        self._routes = Routes(table(Stow()))
        self._counters: dict[tuple[str, str, int], Any] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started = time.perf_counter()
        call = Call(request, self._services, self._table, self._tenant)
        call.headers = {
            "X-Content-Type-Options": "nosniff",
            "Server": "dicomnode",
            **self._access.cors(request.headers),
        }
        try:
            response = await self._enter(call)
        except NodeError as error:
            response = self._fault(call, problem_of(error), started, error)
        except (ConnectionError, TimeoutError):
            self._abort(call, "the client went away or stalled", started)
            raise ConnectionResetError from None
        except Exception:  # noqa: BLE001 -- a bug fails one request, told by its traceback in the log
            _LOG.exception("request.failed", route=call.template, method=request.method)
            response = self._fault(call, unforeseen(), started)
        self._count(call, response.status, started)
        call.sent = call.sent or sent(response, request.method)
        self._note(call, response.status, started)
        return response

    async def _enter(self, call: Call) -> web.StreamResponse:
        request = call.request
        found = self._routes.find(request.raw_path.partition("?")[0])
        if request.method == "OPTIONS":
            return self._options(call, found[0] if found else {})
        if found is None:
            self._access.check(request.headers)
            raise HttpProblem(404, "there is no such resource", "GET / says what is here")
        methods, call.params = found
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            self._access.check(request.headers)
            allowed = _allow(methods)
            raise HttpProblem(405, f"this resource knows {allowed}", headers={"Allow": allowed})
        call.template = route.template
        if not route.open:
            self._access.check(request.headers)
        call.tenant = self._access.tenant(request.headers)
        if "Expect" in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self._handled(route, call)

    async def _handled(self, route: Route, call: Call) -> web.StreamResponse:
        with metrics.handling(route.service) if route.service else nullcontext():
            response: web.StreamResponse = await route.handler(call)
        return response

    def _options(self, call: Call, methods: Mapping[str, Route]) -> web.Response:
        headers = self._access.preflight(call.request.headers)
        return call.answer(status=204, headers={**headers, "Allow": _allow(methods)})

    def _fault(
        self, call: Call, problem: Problem, started: float, error: NodeError | None = None
    ) -> web.StreamResponse:
        if call.response is not None:
            # The status is out already: an end that looks clean would pass for a whole body.
            self._abort(call, problem.detail, started)
            raise ConnectionResetError
        headers = error.headers if isinstance(error, HttpProblem) else {}
        return call.answer(encode(problem), MEDIA_TYPE, problem.status, headers)

    def _abort(self, call: Call, reason: str, started: float) -> None:
        _LOG.warning("response.cut", route=call.template, reason=reason)
        if call.sent:
            self._note(call, call.response.status if call.response is not None else 200, started)
        if call.request.transport is not None:
            call.request.transport.abort()

    def _note(self, call: Call, status: int, started: float) -> None:
        if self._accesses is not None and call.template not in _QUIET:
            self._accesses.note(call, status, started)

    def _count(self, call: Call, status: int, started: float) -> None:
        key = (call.template or "none", call.request.method, status)
        counter = self._counters.get(key)
        if counter is None:
            method = key[1] if key[1] in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE") else "other"
            counter = metrics.HTTP_REQUESTS.labels(key[0], method, str(status))
            if len(self._counters) < 1000:
                self._counters[key] = counter
        counter.inc()
        level = _level(call, status)
        if _LEVELS.isEnabledFor(level):
            _LOG.log(
                level,
                "request.answered",
                method=call.request.method,
                route=call.template,
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
                remote=call.request.remote,
            )


def _allow(methods: Mapping[str, Route]) -> str:
    named = {*methods, "OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return ", ".join(sorted(named))


def _level(call: Call, status: int) -> int:
    if status >= 400:
        return logging.ERROR if status >= 500 else logging.WARNING
    # Frames come by the thousand, and probes for ever.
    return logging.DEBUG if "frames" in call.params or call.template in _QUIET else logging.INFO
