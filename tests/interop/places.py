"""Where a DICOM node is, and programs of other people that are there while a test runs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

HOST = "127.0.0.1"
# dcmtk leaves Nagle's algorithm on and then waits 40 ms for our acknowledgement.
QUICK = os.environ | {"TCP_NODELAY": "1"}


class Certificate(msgspec.Struct, frozen=True):
    """Files in PEM form: a private key, its certificate, and the authority that signed the other end's."""

    key: Path
    cert: Path
    ca: Path


class Place(msgspec.Struct, frozen=True):
    """A DICOM node's address; `tls` is what to say there who one is."""

    aet: str
    port: int
    tls: Certificate | None = None

    @property
    def peer(self) -> str:
        """As our own commands and configuration write it."""
        return f"{self.aet}@{HOST}:{self.port}"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def serving(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str] = QUICK, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Have `command` run and listen on `port`. Its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd)
    try:
        _wait_for(port, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(400):
        if _listens(port):
            return
        assert process.poll() is None, f"{process.args!r} ended: {log.read_text(errors='replace')}"
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not listen: {log.read_text(errors='replace')}")


def _listens(port: int) -> bool:
    """Tell whether somebody listens on `port`, as the kernel knows it: CTN ends when one connects and says nothing."""
    tables = [table for name in ("tcp", "tcp6") if (table := Path("/proc/net") / name).exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    if tables:
        return any(local.endswith(f":{port:04X}") and state == "0A" for _, local, _, state, *_ in rows)
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True
