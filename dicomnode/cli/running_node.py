"""A node that runs already, spoken to through its web door."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
from collections.abc import Iterator, Sequence
from typing import IO, Any, Self
from urllib.parse import quote, urlsplit

import msgspec

from dicomnode.config import Config
from dicomnode.errors import NodeError, PeerError, Refused

_CHUNK = 1024 * 1024


class Outcome(msgspec.Struct, frozen=True):
    """What became of one object that was sent: `failure` is empty where it is kept."""

    failure: str = ""
    sop_instance_uid: str = ""


class RunningNode:
    """One keep-alive connection to a node's web door; for one thread."""

    def __init__(self, url: str, token: str = "", tenant: str = "") -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise PeerError(f"{url!r} is not an http:// or https:// address")
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(self._url.hostname, self._url.port, timeout=600)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if tenant:
            self._headers["x-tenant"] = tenant

    @classmethod
    def of(cls, config: Config, url: str = "") -> Self:
        """Return the node that `config` describes, or the one at `url`."""
        host = config.server.host if not is_any(config.server.host) else "127.0.0.1"
        bracketed = f"[{host}]" if ":" in host else host
        token = config.server.auth.tokens[0] if config.server.auth.tokens else ""
        return cls(url or f"http://{bracketed}:{config.server.port}", token, config.node.tenant)

    def readiness(self) -> dict[str, list[str]]:
        """Return the faults of each of its backends. Raises: PeerError."""
        _, body = self._exchange("GET", "/readyz", {})
        told = json.loads(body)
        return {name: [] if state["up"] else [str(state["problem"])] for name, state in told["backends"].items()}

    def statistics(self, by: str, since: str, until: str, limit: int) -> dict[str, Any]:
        """Return what it counted. Raises: PeerError, Refused, NodeError."""
        query = f"by={quote(by)}&since={quote(since)}&until={quote(until)}&limit={limit}"
        status, body = self._exchange("GET", f"/api/v1/statistics?{query}", {})
        _expect(status == 200, status, body)
        counted: dict[str, Any] = json.loads(body)
        return counted

    def known(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Return those of `sop_instance_uids` that it holds. Raises: PeerError, Refused."""
        query = f"SOPInstanceUID={quote(','.join(sop_instance_uids), safe=',')}&limit={len(sop_instance_uids)}"
        status, body = self._exchange("GET", f"/dicomweb/instances?{query}", {"Accept": "application/dicom+json"})
        if status == 204 or not body:
            return set()
        _expect(status in (200, 206), status, body)
        return {row["00080018"]["Value"][0] for row in json.loads(body)}

    def store(self, file: IO[bytes], size: int) -> Outcome:
        """Send one Part 10 file of `size` bytes (STOW-RS). Raises: PeerError, Refused.

        Source: PS3.18 10.5.
        """
        boundary = f"dicomnode-{secrets.token_hex(16)}"
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + size + len(tail)),
            "Accept": "application/dicom+json",
        }
        status, body = self._exchange("POST", "/dicomweb/studies", headers, _parts(head, file, tail))
        _expect(status in (200, 202, 409), status, body)
        return _outcome(json.loads(body))

    def _exchange(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> tuple[int, bytes]:
        try:
            self._connection.request(method, self._url.path.rstrip("/") + path, body, self._headers | headers)
            reply = self._connection.getresponse()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException, socket.gaierror) as error:
            self._connection.close()
            where = f"{self._url.scheme}://{self._url.netloc}"
            raise PeerError(f"the node at {where} does not answer: {error}", transient=True) from error

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


def is_any(host: str) -> bool:
    """Tell whether `host` binds every address of the machine."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104 -- compared, not bound


def _parts(head: bytes, file: IO[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    while chunk := file.read(_CHUNK):
        yield chunk
    yield tail


def _expect(holds: bool, status: int, body: bytes) -> None:
    if holds:
        return
    if status in (401, 403):
        raise Refused("the node asks for a token: set server.auth.tokens in the configuration used here")
    raise NodeError(f"the node answered {status}: {body[:200].decode('utf-8', 'replace')}")


def _outcome(reply: dict[str, Any]) -> Outcome:
    for failed in ("00081198", "0008119A"):
        for item in reply.get(failed, {}).get("Value", ()):
            reason = item.get("00081197", {}).get("Value", [0])[0]
            return Outcome(f"refused with failure reason {reason:04X}")
    stored = reply.get("00081199", {}).get("Value", ())
    return Outcome("", stored[0]["00081155"]["Value"][0] if stored else "")
