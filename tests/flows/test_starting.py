"""A node that starts while a backend is away waits for it, says which, and refuses nobody when it is there."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.backends import postgres
from tests.flows.cluster import until
from tests.flows.running import dicomnode, sets

pytestmark = pytest.mark.timeout(120)


class Starting:
    """A node that was started, whether it is ready or not; `ports` are those of its web and its health door."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.ports = (postgres.free_port(), postgres.free_port())
        self._log = (folder / "log").open("w")
        words = sets(folder / "data", f"server.port={self.ports[0]}", f"health.port={self.ports[1]}", *more)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dicomnode", "run", *words], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        self.out: IO[str] = self.process.stdout
        until(lambda: self.ask("/livez")[0] == 200)

    def ask(self, path: str, door: int = 0) -> tuple[int, str]:
        """Return status and body of one request on a connection of its own; 0 where it is refused or cut off."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[door], timeout=30)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def told(self) -> str:
        return Path(self._log.name).read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.out.close()
        self._log.close()


@pytest.fixture
def server() -> Iterator[postgres.Postgres]:
    """A database server of this test's own, which is away."""
    with postgres.running(own=True) as running:
        running.stop()
        yield running


def options(server: postgres.Postgres) -> tuple[str, ...]:
    return ("database.use=postgres", f"database.options.url={json.dumps(server.url)}", "node.log_level=info")


def test_a_backend_that_is_away_is_waited_for_and_named(server: postgres.Postgres, tmp_path: Path) -> None:
    node = Starting(tmp_path, *options(server))
    statuses: list[int] = []
    done = threading.Event()

    def knock() -> None:
        while not done.is_set():
            statuses.append(node.ask("/dicomweb/studies")[0])
            time.sleep(0.005)

    try:
        for door in (0, 1):
            assert node.ask("/livez", door)[0] == 200
            until(lambda door=door: _down(node, door).keys() == {"database"})  # type: ignore[misc]
            assert node.ask("/readyz", door)[0] == 503
            assert "postgres" in _down(node, door)["database"]
        assert node.ask("/dicomweb/studies")[0] == 503
        assert node.ask("/metrics", 1)[0] == 200
        knocking = threading.Thread(target=knock)
        knocking.start()
        server.start()
        assert node.out.readline().startswith("ready ")
        assert node.ask("/readyz")[0] == node.ask("/readyz", 1)[0] == 200
        assert node.ask("/dicomweb/studies")[0] in (200, 204)
        time.sleep(0.3)
        done.set()
        knocking.join()
        assert 503 in statuses
        assert set(statuses) <= {503, 200, 204}, "nobody is refused or cut off in between"
        assert node.told().count("backend.waiting") == 1
        assert node.told().count("backend.opened") == 1
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(40) == 0
    finally:
        done.set()
        node.close()


def _down(node: Starting, door: int) -> dict[str, str]:
    backends = json.loads(node.ask("/readyz", door)[1])["backends"]
    return {name: state["problem"] for name, state in backends.items() if not state["up"]}


def test_a_node_that_waits_ends_when_it_is_told_to(server: postgres.Postgres, tmp_path: Path) -> None:
    node = Starting(tmp_path, *options(server))
    try:
        node.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert node.process.wait(20) == 0
        assert time.monotonic() - began < 5
        assert node.out.read() == "", "it was never ready"
    finally:
        node.close()


def test_what_must_be_mended_and_commands_are_not_waited_for(server: postgres.Postgres, tmp_path: Path) -> None:
    server.start()
    wrong = server.url.replace("correct", "incorrect")
    words = sets(tmp_path / "data", "database.use=postgres", f"database.options.url={json.dumps(wrong)}")
    refused = dicomnode("run", *words)
    assert (refused.returncode, "database.options" in refused.stderr) == (2, True)
    assert "Traceback" not in refused.stderr
    server.stop()
    away = dicomnode("sweep", *words)
    assert away.returncode == 1
    assert "postgres" in away.stderr
    checked = dicomnode("check", "--json", *words)
    assert checked.returncode == 1
    found = json.loads(checked.stdout)["findings"]
    assert [name for name, problems in found.items() if problems] == ["database"]
    assert {"warehouse", "broker"} < found.keys()


def test_roles_that_will_never_meet_are_warned_of(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dicomnode", "run", *sets(tmp_path / "data"), "--role", "storescp"]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        assert node.stdout.readline().startswith("ready "), "it is no error"
        node.send_signal(signal.SIGTERM)
        _, said = node.communicate(timeout=40)
    finally:
        node.kill()
    (doubt,) = (json.loads(line) for line in said.splitlines() if "configuration.doubtful" in line)
    assert doubt["path"] == "broker.use"
    assert "no consumer" in doubt["problem"]
    assert node.returncode == 0
