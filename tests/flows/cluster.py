"""One node as several processes: each of roles of its own, over one broker, one database and one storage."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.flows.running import Running, start_node


class Cluster:
    """Starts processes that share all but their data folders, and kills them at the end.

    `broker` is the plugin's name and its options; the database is PostgreSQL with `database` for options.
    """

    def __init__(self, folder: Path, broker: tuple[str, dict[str, Any]], database: dict[str, Any]) -> None:
        self._folder = folder
        self.processes: list[Running] = []
        use, options = broker
        chosen = [f"broker.use={use}", "database.use=postgres", "warehouse.use=off"]
        for port, told in (("broker", options), ("database", database)):
            chosen += [f"{port}.options.{key}={_toml(value)}" for key, value in told.items()]
        chosen += [f"storage.options.root={folder / 'storage'}", "node.log=json", "consumer.linger_s=0.02"]
        self.shared = chosen

    def words(self, name: str, *more: str) -> list[str]:
        """Return the options of the process `name`, which has a data folder and ports of its own."""
        own = [f"node.data_dir={self._folder / name}", "storescp.port=0", "server.port=0", "health.port=0", *more]
        return [word for one in (*self.shared, *own) for word in ("--set", one)]

    def start(self, name: str, roles: str, *more: str) -> Running:
        """Have a process of `roles`, parted by blanks, and wait until it is ready."""
        chosen = [word for role in roles.split() for word in ("--role", role)]
        log = self._folder / f"{name}-{len(self.processes)}.log"
        node = start_node(self._folder / name, log, *self.words(name, *more), *chosen)
        self.processes.append(node)
        return node

    def close(self) -> None:
        """Have all of them gone."""
        for node in self.processes:
            if node.process.poll() is None:
                node.kill()


def _toml(value: object) -> str:
    return json.dumps(value)  # of a string, a number or a truth both write the same


def asked(node: Running, path: str) -> tuple[int, str]:
    """Return what the health door of a process answers."""
    try:
        with urllib.request.urlopen(node.addresses["health"] + path, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def measured(node: Running, name: str) -> float:
    """Return the sum of a metric's lines whose beginning is `name`, 0 where there are none."""
    status, text = asked(node, "/metrics")
    assert status == 200
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}[^ ]* (\S+)$", text, re.MULTILINE))


def until(true: Callable[[], bool], most_s: float = 40.0) -> None:
    """Wait until `true()`."""
    ends = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.1)
