"""Senders that nobody here wrote, and a plain STOW over http.client."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.flows.running import Running


def storescu(
    node: Running, *paths: Path, nagle: bool = False, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Send `paths` in one association of dcmtk's storescu."""
    host, port = node.scp
    # Only the presentation contexts that the files need: it offers no compressed ones otherwise.
    command = ["storescu", "-aec", "DICOMNODE", *options, "+sd", "+r", host, str(port), *map(str, paths)]
    env = os.environ | ({} if nagle else {"TCP_NODELAY": "1"})
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def stow(node: Running, *files: bytes, study: str = "") -> tuple[int, dict[str, Any]]:
    """Send `files` in one STOW request; return the status and the reply."""
    body = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files) + b"--x--\r\n"
    request = urllib.request.Request(
        f"{node.url}/dicomweb/studies" + (f"/{study}" if study else ""),
        body,
        {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x', "Accept": "application/dicom+json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def retrieved(node: Running, study: str, series: str, sop: str) -> bytes:
    """Return the file of one instance, as one part."""
    status, body = node.get(f"/dicomweb/studies/{study}/series/{series}/instances/{sop}", "application/dicom")
    assert status == 200, (status, body[:300])
    return body


def instances(node: Running, query: str = "") -> list[dict[str, Any]]:
    """Return every instance the node finds, page by page."""
    rows: list[dict[str, Any]] = []
    while page := node.json(f"/dicomweb/instances?limit=500&offset={len(rows)}{query}"):
        rows += page
    return rows
