"""One answered request as the access log has it (see WadoAccessLog): what was asked for, by whom, and how it ended.

It may name patients, in a path or a query: it is the record of who looked at whom. It goes to the broker and nowhere
else; nothing of it is logged or counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from urllib.parse import parse_qsl, unquote

import msgspec
from aiohttp import web

from dicomnode.model.instance import request_id
from dicomnode.model.messages import WadoAccessLog
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.client_address import Proxies
from dicomnode.services.access_log import AccessLog

# Those that are known to hold no secret: a list of those that do would lack the next one that somebody invents.
_KEPT = frozenset(
    {
        *(b"accept", b"accept-encoding", b"accept-language", b"content-encoding", b"content-length", b"content-type"),
        *(b"forwarded", b"host", b"if-none-match", b"origin", b"range", b"traceparent", b"user-agent", b"via"),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-request-id", b"x-tenant"),
    }
)
_KINDS = ("frames", "bulkdata", "metadata", "worklist", "performed", "statistics")
_SECRET = re.compile("token|secret|passw|signature|api[_-]?key|auth", re.IGNORECASE)
_BETWEEN = re.compile("([&;])")
_LONGEST_TEXT, _LONGEST_FIELD, _LONGEST_UID = 8192, 1024, 128
_MOST_PARAMETERS, _OFTEN = 100, 4096
_SIZE = 1024  # of what an entry holds beside its texts

_encode = msgspec.json.Encoder().encode


class Seen(msgspec.Struct, frozen=True):
    """What is kept of a request from its end until its row is made, some moments later."""

    at_ns: int
    seconds: float
    method: str
    target: str
    template: str
    params: Mapping[str, str]
    tenant: str
    peer: str
    headers: tuple[tuple[bytes, bytes], ...]
    status: int
    sent: int


class Accesses:
    """Notes what the door has answered."""

    def __init__(self, log: AccessLog, proxies: Proxies) -> None:
        self._log = log
        self._proxies = proxies

    def note(self, call: Call, status: int, started: float) -> None:
        """Have an answer noted that was begun at `started` (of the performance counter)."""
        request = call.request
        headers = tuple([pair for pair in request.raw_headers if pair[0].lower() in _KEPT])
        target = request.raw_path
        seen = Seen(
            time.time_ns(),
            time.perf_counter() - started,
            request.method,
            target if len(target) <= 2 * _LONGEST_TEXT else target[: 2 * _LONGEST_TEXT],
            call.template,
            call.params,
            call.tenant,
            request.remote or "",
            headers,
            status,
            call.sent,
        )
        size = _SIZE + len(target) + sum([len(value) for _, value in headers])
        self._log.note(partial(row, seen, self._proxies), size)


def row(seen: Seen, proxies: Proxies) -> WadoAccessLog:
    """Return what is told of a request. Texts that are too long end with an ellipsis."""
    path, _, query = seen.target.partition("?")
    headers = _read(seen.headers)
    study, series, instance = _uids(seen, query)
    began = datetime.fromtimestamp(seen.at_ns / 1e9 - seen.seconds, UTC)
    return WadoAccessLog(
        request_id=request_id(seen.at_ns),
        timestamp=began.isoformat(timespec="milliseconds"),
        tenant_id=seen.tenant,
        method=seen.method[:16],
        route=seen.template,
        path=_cut(_plain(path), _LONGEST_TEXT),
        status=seen.status,
        duration_ms=round(seen.seconds * 1000, 3),
        content_length=seen.sent,
        query_params=_cut(_without_secrets(_plain(query)), _LONGEST_TEXT) if query else "",
        resource_type=_named(seen.template) or ("instance" if instance else "series" if series else study and "study"),
        study_uid=study,
        series_uid=series,
        sop_uid=instance,
        peer_addr=proxies.client(seen.peer, headers.forwarded_for, headers.forwarded),
        user_agent=headers.user_agent,
        headers=headers.kept,
    )


def sent(response: web.StreamResponse, method: str) -> int:
    """Return how long the body is of an answer that is at hand as a whole."""
    body = response.body if isinstance(response, web.Response) and method != "HEAD" else None
    return len(body) if isinstance(body, bytes | bytearray) else 0


class _Headers(msgspec.Struct, frozen=True):
    forwarded_for: str
    forwarded: str
    user_agent: str
    kept: str


def _read(headers: tuple[tuple[bytes, bytes], ...]) -> _Headers:
    return _read_often(headers) if sum([len(value) for _, value in headers]) < _OFTEN else _read_once(headers)


def _read_once(headers: tuple[tuple[bytes, bytes], ...]) -> _Headers:
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "backslashreplace")
        found[key] = f"{found[key]}, {text}" if key in found else text  # RFC 9110 5.3
    agent = found.pop("user-agent", "")  # it has a column of its own
    kept = {name: _cut(value, _LONGEST_FIELD) for name, value in found.items()}
    forwarded_for, forwarded = found.get("x-forwarded-for", ""), found.get("forwarded", "")
    return _Headers(forwarded_for, forwarded, _cut(agent, _LONGEST_FIELD), _encode(kept).decode())


# A client says the same with every request.
_read_often = lru_cache(512)(_read_once)


def _uids(seen: Seen, query: str) -> tuple[str, str, str]:
    held: Mapping[str, str] = seen.params
    names = ("study", "series", "instance")
    if seen.template.endswith("/wado"):
        held = dict(parse_qsl(query)) if query.count("&") < _MOST_PARAMETERS else {}
        names = ("studyUID", "seriesUID", "objectUID")
    study, series, instance = [_uid(held.get(name, "")) for name in names]
    return study, series, instance


def _uid(text: str) -> str:
    return _plain(text) if len(text) <= _LONGEST_UID else ""


def _without_secrets(query: str) -> str:
    """Return `query` without the values of what by its name may be a credential."""
    if not _SECRET.search(unquote(query)):
        return query
    pieces = _BETWEEN.split(query)
    return "".join([_masked(*piece.partition("=")) for piece in pieces])


def _masked(name: str, equals: str, value: str) -> str:
    return f"{name}=***" if equals and _SECRET.search(unquote(name)) else name + equals + value


@lru_cache(256)
def _named(template: str) -> str:
    """Return what kind of thing a route is for, where that is not told by the UIDs."""
    return next((name for name in _KINDS if f"/{name}" in template), "")


def _plain(text: str) -> str:
    """Return text that JSON can hold: bytes of a request that are no UTF-8 become escapes."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
