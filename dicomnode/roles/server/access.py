"""Who may come in, from which web page, and for which tenant."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from dicomnode.config import ServerTable, is_tenant
from dicomnode.errors import BadRequest
from dicomnode.roles.server.problem import HttpProblem

_EXPOSED = "Content-Length, Content-Location, Content-Range, Content-Type, ETag, Location, Warning, WWW-Authenticate"
_ACCEPTED = "Accept, Authorization, Content-Type, If-None-Match, Range, X-Tenant"
_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"


class Access:
    """The rules of one door."""

    def __init__(self, table: ServerTable, tenant: str) -> None:
        self._tokens = tuple(token.encode() for token in table.auth.tokens)
        self._origins = frozenset(table.cors.origins)
        self._tenant = tenant

    def check(self, headers: Mapping[str, str]) -> None:
        """Return if the bearer of these headers may come in. Raises: HttpProblem 401."""
        if not self._tokens:
            return
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        # Every token is compared, so that the time tells nothing.
        fits = [hmac.compare_digest(given, known) for known in self._tokens]
        if scheme.lower() != "bearer" or not any(fits):
            raise HttpProblem(
                401, "this door asks for a token", "Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
            )

    def tenant(self, headers: Mapping[str, str]) -> str:
        """Return the tenant that the request is for. Raises: BadRequest."""
        named = headers.get("X-Tenant")
        if named is None:
            return self._tenant
        if not is_tenant(named):
            raise BadRequest("X-Tenant: must be 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
        return named

    def cors(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that let a page of an allowed origin read the answer (Fetch 3.2)."""
        origin = headers.get("Origin") if self._origins else None
        if origin is None or not ("*" in self._origins or origin in self._origins):
            return {"Vary": "Origin"} if self._origins else {}
        return {
            "Access-Control-Allow-Origin": "*" if "*" in self._origins else origin,
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin",
        }

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of the answer to a preflight request."""
        allowed = self.cors(headers)
        if "Access-Control-Allow-Origin" not in allowed:
            return allowed
        return {
            **allowed,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _ACCEPTED,
            "Access-Control-Max-Age": "600",
        }
