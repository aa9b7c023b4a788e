"""A whole node as a process of its own, driven through its real doors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Running:
    """A node that is up: its process, its data folder, and where its doors are."""

    def __init__(self, process: subprocess.Popen[str], data_dir: Path, ready: str, log: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.log = log
        self.addresses = dict(word.split("=", 1) for word in ready.split()[1:] if "=" in word)

    @property
    def url(self) -> str:
        return self.addresses["server"]

    @property
    def scp(self) -> tuple[str, int]:
        host, _, port = self.addresses["storescp"].partition("@")[2].rpartition(":")
        return host, int(port)

    def get(self, path: str, accept: str = "application/dicom+json") -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        assert status in (200, 204), (status, body[:500])
        return json.loads(body) if body else []

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def told(self) -> str:
        return self.log.read_text()


def start_node(folder: Path, log: Path, *words: str) -> Running:
    """Start a node and wait until it says that it is ready."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicomnode", "run", *words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )
    assert process.stdout is not None
    ready = process.stdout.readline()
    process.stdout.close()
    if not ready.startswith("ready"):
        process.kill()
        process.wait(10)
        raise AssertionError(f"the node did not start: {log.read_text()}")
    return Running(process, folder, ready, log)


def dicomnode(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line and wait for its end."""
    command = [sys.executable, "-m", "dicomnode", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def sets(data_dir: Path, *more: str) -> list[str]:
    """Return the options of a node of its own on free ports."""
    chosen = [f"node.data_dir={data_dir}", "storescp.port=0", "server.port=0", "node.log=json", *more]
    return [word for one in chosen for word in ("--set", one)]
