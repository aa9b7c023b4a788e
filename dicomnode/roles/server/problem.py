"""Errors as application/problem+json (RFC 9457): one table from class to status; no traceback, nothing of a patient."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from dicomnode.errors import (
    BadInstance,
    BadRequest,
    Corrupt,
    Full,
    Mismatch,
    NodeError,
    NotFound,
    PeerError,
    Refused,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"


class HttpProblem(NodeError):
    """A fault in how HTTP was used, with the status that says so."""

    def __init__(self, status: int, detail: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.hint = hint
        self.headers = dict(headers or {})


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of RFC 9457 and, where one is known, a `hint` at what to do."""

    type: str
    title: str
    status: int
    detail: str = ""
    hint: str = ""


# The first class that fits counts, so the special stand before the general.
_STATUS: tuple[tuple[type[NodeError], int, str], ...] = (
    (Mismatch, 409, ""),
    (BadInstance, 409, ""),
    (BadRequest, 400, ""),
    (Refused, 403, ""),
    (NotFound, 404, ""),
    (PeerError, 502, ""),
    (Full, 507, "free some space, then send again"),
    (Unavailable, 503, "try again later"),
    (Corrupt, 500, "run `dicomnode fsck`"),
)


def status_of(error: NodeError) -> int:
    """Return the HTTP status for `error`."""
    return problem_of(error).status


def problem_of(error: NodeError) -> Problem:
    """Return what a client is told of `error`."""
    if isinstance(error, HttpProblem):
        return _problem(error.status, str(error), error.hint)
    for kind, status, hint in _STATUS:
        if isinstance(error, kind):
            return _problem(status, str(error), hint)
    return unforeseen()


def unforeseen() -> Problem:
    """Return what a client is told of an error that nobody foresaw: nothing but that it was one."""
    return _problem(500, "something went wrong that this program did not foresee; its log says what")


def _problem(status: int, detail: str, hint: str = "") -> Problem:
    return Problem("about:blank", HTTPStatus(status).phrase, status, detail, hint)


encode = msgspec.json.Encoder().encode
