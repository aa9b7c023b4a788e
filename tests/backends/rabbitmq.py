"""A RabbitMQ of the tests' own: on free ports, in a temporary folder, stopped at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec
import pytest

from tests.backends.postgres import free_port
from tests.certificates import authority_file, certified

MOST_BYTES = 1024 * 1024
_PATIENCE_S = 45.0  # it starts in five seconds where nothing else runs
_SERVER = Path("/usr/lib/rabbitmq/bin")
_places = count(1)


class Server(msgspec.Struct):
    """A server that answers at `url`; one that is ours can be stopped, killed and started on the same data."""

    url: str
    folder: Path | None = None
    port: int = 0
    tls: str = ""
    environment: dict[str, str] = {}
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Have it answer."""
        assert self.folder is not None
        with (self.folder / "out").open("ab") as log:
            self.process = subprocess.Popen(
                [_SERVER / "rabbitmq-server"],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ends = time.monotonic() + _PATIENCE_S
        while not self._answers():
            said = (self.folder / "out").read_text(errors="replace")
            alive = time.monotonic() < ends and self.process.poll() is None
            assert alive, f"does not answer: {said[-2000:]}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(1)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def kill(self) -> None:
        """Have it gone at once, as after a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_PATIENCE_S)
            self.process = None

    def control(self, *command: str) -> str:
        """Return what `rabbitmqctl` says."""
        return subprocess.run(
            [_SERVER / "rabbitmqctl", "--quiet", *command],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        ).stdout


def _environment(folder: Path, port: int) -> dict[str, str]:
    """Return what makes a server keep to `folder` and to loopback."""
    return {
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_NODENAME": f"dicomnode{port}@localhost",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
        "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the server, instead of waiting for it
    }


def _tls(folder: Path, port: int) -> list[str]:
    """Return the settings of a listener on TLS whose certificate the tests' own authority signed."""
    certificate, key = certified(folder, "127.0.0.1")
    return [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {authority_file(folder)}",
        f"ssl_options.certfile = {certificate}",
        f"ssl_options.keyfile = {key}",
    ]


@contextmanager
def running(settings: Sequence[str] = (), *, own: bool = False) -> Iterator[Server]:
    """Have a server: ours with `settings`, or DICOMNODE_TEST_RABBITMQ_URL's unless it must be our `own`; else skip."""
    if (url := os.environ.get("DICOMNODE_TEST_RABBITMQ_URL")) and not own:
        yield Server(url)
        return
    names = shutil.which("epmd")
    if not (_SERVER / "rabbitmq-server").exists() or names is None:
        pytest.skip("the broker plugin rabbitmq was not tested: no rabbitmq-server here (scripts/peers installs it)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-rabbitmq-") as name:
        folder, port = Path(name), free_port()
        lines = [f"listeners.tcp.1 = 127.0.0.1:{port}", "log.console = true", "log.console.level = warning"]
        lines += [f"max_message_size = {MOST_BYTES}", *_tls(folder, tls := free_port()), *settings]
        (folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in lines))
        (folder / "plugins").write_text("[].\n")
        server = Server(
            f"amqp://guest:guest@127.0.0.1:{port}/",
            folder,
            port,
            f"amqps://guest:guest@127.0.0.1:{tls}/",
            _environment(folder, port),
        )
        # The server would start this daemon by itself, and leave it behind.
        epmd = subprocess.Popen(
            [names, "-address", "127.0.0.1", "-port", server.environment["ERL_EPMD_PORT"]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            server.start()
            yield server
        finally:
            server.kill()  # what it keeps goes with the folder
            epmd.terminate()
            epmd.wait(_PATIENCE_S)


def options(port: str, server: Server) -> dict[str, object]:
    """Return options with a prefix that nobody has used, and few queues, because making them takes time."""
    return {"url": server.url, "prefix": f"test.{os.getpid()}.{next(_places)}.", "partitions": 2}
