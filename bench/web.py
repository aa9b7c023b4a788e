"""A web door as its clients see it: single requests here, storms by wrk in `storms`."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from bench.data import Instance
from bench.processes import Failed

DICOM_JSON = "application/dicom+json"
_BOUNDARY = b"dicomnode-bench-4c1f0b7e"
_TIMEOUT_S = 120.0


class Door(msgspec.Struct, frozen=True):
    """DICOMweb under `root` on a port of 127.0.0.1."""

    port: int
    root: str

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is kept alive, with TCP_NODELAY (http.client sets it)."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)

    def get(self, path: str, accept: str = DICOM_JSON) -> bytes:
        """Return the whole body. Raises: Failed unless the status is 200."""
        connection = self.connect()
        try:
            connection.request("GET", self.root + path, headers={"Accept": accept})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status == 204:
            return b"[]"
        if answer.status != 200:
            raise Failed(f"GET {path.partition('?')[0]}: status {answer.status}")
        return body

    def get_json(self, path: str, accept: str = DICOM_JSON) -> Any:
        """Return the answer, decoded."""
        return json.loads(self.get(path, accept))


def stow_bodies(instances: Sequence[Instance], per_request: int) -> list[bytes]:
    """Return the bodies of requests of `per_request` instances each, ready to send."""
    return [_stow_body(instances[at : at + per_request]) for at in range(0, len(instances), per_request)]


def _stow_body(instances: Sequence[Instance]) -> bytes:
    head = b"--" + _BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
    parts = [head + Path(instance.path).read_bytes() + b"\r\n" for instance in instances]
    return b"".join((*parts, b"--", _BOUNDARY, b"--\r\n"))


def stow(door: Door, bodies: Sequence[bytes]) -> list[float]:
    """Post `bodies` over one connection; return the seconds of each. Raises: Failed unless each is answered 200."""
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY.decode()}',
        "Accept": DICOM_JSON,
    }
    connection = door.connect()
    seconds = []
    try:
        for body in bodies:
            began = perf_counter()
            connection.request("POST", door.root + "/studies", body, headers)
            answer = connection.getresponse()
            answer.read()
            seconds.append(perf_counter() - began)
            if answer.status != 200:
                raise Failed(f"STOW: status {answer.status}")
    finally:
        connection.close()
    return seconds


def drain(door: Door, path: str, accept: str) -> int:
    """Fetch `path` until the server closes and return the bytes received, headers too; a client that costs nothing.

    Raises: Failed unless the status is 200 and the body ends as a multipart body must.
    """
    request = f"GET {door.root}{path} HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nAccept: {accept}\r\n"
    buffer = bytearray(1 << 20)
    first, last, total = b"", b"", 0
    with socket.create_connection(("127.0.0.1", door.port), _TIMEOUT_S) as connection:
        connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
        while size := connection.recv_into(buffer):
            first = first or bytes(buffer[:64])
            last = (last + buffer[max(0, size - 64) : size])[-64:]
            total += size
    if b" 200 " not in first.partition(b"\r\n")[0]:
        raise Failed(f"GET {path.rpartition('/')[0]}: {first.partition(chr(13).encode())[0].decode(errors='replace')}")
    if b"--" not in last.rstrip(b"\r\n0")[-2:]:
        raise Failed("a multipart body was cut off")
    return total
