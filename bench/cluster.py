"""Contestants that are several programs: this node, one process a role, over Kafka, PostgreSQL, Redis and ClickHouse;
and Orthanc with its index in PostgreSQL.

Every server is one of its own, started empty in the folder of the turn; PostgreSQL syncs what it commits.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.contestants import ROOT, Contestant, Orthanc
from bench.processes import Failed, Process, answers, free_port
from bench.web import Door
from tests.backends import clickhouse, kafka, postgres, redis

ORTHANC_POSTGRES = "/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so"
_SYNCED = ("fsync = on", "shared_buffers = 512MB")


class Cluster(Contestant):
    """This node, `storescps` processes at the DIMSE door and one for each other role."""

    name = "node"
    storescps = 1

    def start(self) -> None:
        enter = self._stack.enter_context
        enter(_within(self.folder))
        self._web_port = free_port()
        self._processes: list[Process] = []
        database = enter(postgres.running(_SYNCED, own=True))
        broker = enter(kafka.running())
        cache = enter(redis.running(own=True))
        self._warehouse = enter(clickhouse.running())
        options = clickhouse.options("warehouse", self._warehouse)
        shared = [
            f'[storage]\nuse = "files"\n[storage.options]\nroot = "{self.folder}/storage"',
            f'[broker]\nuse = "kafka"\n[broker.options]\nurl = "{broker.url}"',
            f'[database]\nuse = "postgres"\n[database.options]\nurl = "{database.url}"',
            f'[cache]\nuse = "redis"\n[cache.options]\nurl = "{cache.url}"',
            '[warehouse]\nuse = "clickhouse"\n[warehouse.options]\n' + toml(options),
            f"[storescp]\nport = {self.dicom_port}\nreuse_port = true\n[server]\nport = {self._web_port}",
        ]
        roles = ["consumer", "recorder", "server", *["storescp"] * self.storescps]
        for number, role in enumerate(roles):
            self._launch_role(role, f"{role}{number}", shared)
        self._processes[0].wait_for(lambda: answers(self.dicom_port) and answers(self._web_port), "open doors")

    def _launch_role(self, role: str, name: str, shared: list[str]) -> None:
        folder = self.folder / name
        folder.mkdir()
        config = folder / "config.toml"
        config.write_text("\n".join([f'[node]\ndata_dir = "{folder}/data"', *shared, ""]))
        argv = [str(ROOT / ".venv/bin/dicomnode"), "run", "--role", role, "--config", str(config)]
        process = self.launch(argv, folder)
        self._processes.append(process)
        process.wait_for(lambda: b"ready" in process.out.read_bytes(), "ready")

    def count(self) -> int:
        studies = self.door.get_json("/studies?includefield=NumberOfStudyRelatedInstances&limit=1000")
        return sum(study["00201208"]["Value"][0] for study in studies)

    def recorded(self) -> int:
        """Return how many received objects the warehouse counts."""
        rows = Door(self._web_port, "").get_json("/api/v1/statistics?by=modality", "application/json")["rows"]
        return sum(int(row["objects"]) for row in rows)

    def wait_until_recorded(self, count: int, timeout_s: float = 120.0) -> None:
        """Return when the warehouse counts `count` received objects. Raises: Failed."""
        deadline = monotonic() + timeout_s
        while (found := self.recorded()) != count:
            if found > count or monotonic() > deadline:
                raise Failed(f"the warehouse has {found} objects where {count} were sent")
            sleep(0.05)

    @property
    def door(self) -> Door:
        return Door(self._web_port, "/dicomweb")

    def peak_rss_bytes(self) -> int:
        return sum(process.peak_rss_bytes() for process in self._processes)


class TwoDoors(Cluster):
    """The same with two processes at the DIMSE door."""

    storescps = 2


class OrthancPostgres(Orthanc):
    """Orthanc with its index in PostgreSQL and its files in a folder, as its plugin's documentation advises."""

    def settings(self) -> dict[str, Any]:
        enter = self._stack.enter_context
        enter(_within(self.folder))
        server = enter(postgres.running(_SYNCED, own=True))
        here = super().settings()
        here["Plugins"] = [*here["Plugins"], ORTHANC_POSTGRES]
        here["PostgreSQL"] = {"EnableIndex": True, "EnableStorage": False, "ConnectionUri": server.url}
        return here


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    """Have temporary folders made in `folder`."""
    earlier, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = earlier


def toml(options: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
