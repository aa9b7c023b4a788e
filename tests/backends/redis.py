"""A Redis or Valkey of the tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec
import pytest

from tests.backends.postgres import free_port, until

_PATIENCE_S = 20.0
_places = count(1)


class Server(msgspec.Struct):
    """A server that answers at `url`; one that is ours can be stopped and started."""

    url: str
    folder: Path | None = None
    port: int = 0
    password: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Have it answer."""
        assert self.folder is not None
        command = [program() or "", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", *(["--requirepass", self.password] if self.password else [])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, self.folder / "log")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) in (b"+PONG", b"-NOAU")
        except OSError:
            return False

    def stop(self) -> None:
        """Have it gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(_PATIENCE_S)
            self.process = None


def program() -> str | None:
    """Return where the server's program is."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def running(password: str = "", *, own: bool = False) -> Iterator[Server]:
    """Have a server: ours, or, unless it must be our `own`, DICOMNODE_TEST_REDIS_URL's; else skip."""
    if (url := os.environ.get("DICOMNODE_TEST_REDIS_URL")) and not own:
        yield Server(url)
        return
    if program() is None:
        pytest.skip("the cache plugin redis was not tested: no redis-server here (scripts/peers installs it)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-redis-") as name:
        port = free_port()
        server = Server(f"redis://127.0.0.1:{port}/0", Path(name), port, password)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def options(port: str, server: Server) -> dict[str, object]:
    """Return options with a prefix that nobody has used."""
    return {"url": server.url, "prefix": f"test:{os.getpid()}:{next(_places)}:"}
