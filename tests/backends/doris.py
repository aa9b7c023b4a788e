"""A stand-in for Apache Doris, which cannot be had for tests (see serve_doris.py), or a real one where there is one.

DICOMNODE_TEST_DORIS_URL is the url of a real one without a database; DICOMNODE_TEST_DORIS_QUERY_PORT and
DICOMNODE_TEST_DORIS_REPLICAS say what else must be known of it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from tests.backends.postgres import free_port, until

USER, PASSWORD = "recorder", "correct:horse@/"
_PATIENCE_S = 20.0
_databases = count(1)


class Server(msgspec.Struct):
    """A stand-in that answers; it can be stopped and started."""

    folder: Path
    http: int
    backend: int
    mysql: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD, before: str = "") -> str:
        """Return the url of `database` there, with other frontends `before` it."""
        return f"doris://{user}:{quote(password, safe='')}@{before}127.0.0.1:{self.http}/{database}"

    def start(self) -> None:
        """Have it answer."""
        ports = [str(port) for port in (self.http, self.backend, self.mysql)]
        command = [sys.executable, str(Path(__file__).with_name("serve_doris.py")), str(self.folder), *ports]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, USER, PASSWORD], stdout=log, stderr=log)
        until(self._answers, self.folder / "log")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.mysql), 1).close()
        except OSError:
            return False
        return True

    def fail(self, *faults: dict[str, Any]) -> None:
        """Have the next loads go wrong, each as is said, instead of as was said before."""
        url = f"http://127.0.0.1:{self.http}/_fault"
        urllib.request.urlopen(
            urllib.request.Request(url, msgspec.json.encode(faults), method="PUT"), timeout=5
        ).close()

    def stop(self) -> None:
        """Have it gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_PATIENCE_S)
            self.process = None


@contextmanager
def running(*, own: bool = False) -> Iterator[Server | str]:
    """Have the stand-in, or, unless it must be our `own`, the Doris at DICOMNODE_TEST_DORIS_URL."""
    if (url := os.environ.get("DICOMNODE_TEST_DORIS_URL")) and not own:
        yield url.rstrip("/")
        return
    with tempfile.TemporaryDirectory(prefix="dicomnode-doris-") as name:
        server = Server(Path(name), free_port(), free_port(), free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()


def options(port: str, server: Server | str) -> dict[str, Any]:
    """Return options with a database that nobody has used."""
    database = f"test_{os.getpid()}_{next(_databases)}"
    if isinstance(server, str):
        told = {"query_port": int(os.environ.get("DICOMNODE_TEST_DORIS_QUERY_PORT", "9030"))}
        return {
            "url": f"{server}/{database}",
            "replicas": int(os.environ.get("DICOMNODE_TEST_DORIS_REPLICAS", "1")),
            **told,
        }
    return {"url": server.url(database), "query_port": server.mysql}
