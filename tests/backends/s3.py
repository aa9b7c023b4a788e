"""An OpenStack Swift of the tests' own with its S3 door: on a free port, in a temporary folder, stopped at the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec
import pytest

from dicomnode_s3.place import Options
from dicomnode_s3.storage import S3Storage
from tests.backends.postgres import free_port, until

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".peers" / "servers" / "bin" / "python"
KEYS = {"access_key_id": "test:tester", "secret_access_key": "testing"}
_PATIENCE_S = 20.0
_places = count(1)


class Server(msgspec.Struct):
    """A server that answers at `endpoint`; one that is ours can be stopped and started."""

    endpoint: str
    bucket: str = "dicomnode"
    keys: dict[str, str] = msgspec.field(default_factory=lambda: dict(KEYS))
    folder: Path | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Have it answer."""
        assert self.folder is not None
        script = Path(__file__).parent / "serve_swift.py"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(PYTHON), "-B", str(script), str(self.folder), str(self.port)], stdout=log, stderr=log
            )
        until(self._answers, self.folder / "log")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthcheck", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Have it gone, in the middle of whatever it does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(_PATIENCE_S)
            self.process = None

    def held(self) -> list[Path]:
        """Return the files in which it keeps objects and parts of objects."""
        assert self.folder is not None
        return sorted((self.folder / "devices").rglob("*.data"))


@contextmanager
def running(*, own: bool = False) -> Iterator[Server]:
    """Have a server: ours, or, unless it must be our `own`, DICOMNODE_TEST_S3_URL's; else skip.

    The variable is http://KEY:SECRET@host:port/bucket.
    """
    if (url := os.environ.get("DICOMNODE_TEST_S3_URL")) and not own:
        yield _elsewhere(url)
        return
    if not PYTHON.exists():
        pytest.skip("the storage plugin s3 was not tested: no Swift in .peers/servers (scripts/peers servers)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-s3-") as name:
        port = free_port()
        server = Server(f"http://127.0.0.1:{port}", folder=Path(name), port=port)
        try:
            server.start()
            with ThreadPoolExecutor(1) as thread:  # a test may be in the middle of its own event loop
                thread.submit(lambda: asyncio.run(_made(server))).result()
            yield server
        finally:
            server.stop()


def _elsewhere(url: str) -> Server:
    parts = urllib.parse.urlsplit(url)
    keys = {"access_key_id": parts.username or "", "secret_access_key": parts.password or ""}
    host = parts.netloc.rpartition("@")[2]
    return Server(f"{parts.scheme}://{host}", parts.path.strip("/"), keys)


async def _made(server: Server) -> None:
    async with S3Storage(
        msgspec.convert(options("storage", server) | {"create_bucket": True}, Options), server.folder or Path()
    ):
        return


def options(port: str, server: Server) -> dict[str, object]:
    """Return options with a prefix that nobody has used."""
    return {
        "url": f"s3://{server.bucket}/{os.getpid()}-{next(_places)}",
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "retry_s": 5.0,
        "cache_reserve_bytes": 0,
        **server.keys,
    }
