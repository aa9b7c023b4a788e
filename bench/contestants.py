"""The contestants: this node, Orthanc and dcmtk's storescp, each started empty in a folder and driven from outside.

Each keeps its defaults; only ports, folders and names are set. With `nodelay` they run with TCP_NODELAY=1 in their
environment: dcmtk, on which Orthanc stands too, otherwise waits 40 ms for a delayed ACK with every answer it sends.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgspec

from bench.asking import MOVE_AET
from bench.processes import Failed, Process, answers, free_port
from bench.web import Door

ROOT = Path(__file__).parent.parent
_ORTHANC = "/usr/sbin/Orthanc"
_ORTHANC_DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


class Contestant(AbstractContextManager["Contestant"], ABC):
    """A DICOM receiver that has been started with an empty store in `folder`."""

    name: str

    def __init__(self, folder: Path, *, nodelay: bool = True) -> None:
        self.folder = folder
        self._nodelay = nodelay
        self.dicom_port = free_port()
        self.move_port = free_port()
        self._stack = ExitStack()
        self._process: Process | None = None

    @abstractmethod
    def start(self) -> None:
        """Return when every door answers. Raises: Failed."""

    @abstractmethod
    def count(self) -> int:
        """Return how many objects can be found now."""

    @property
    def door(self) -> Door:
        """The web door. Raises: Failed where there is none."""
        raise Failed(f"{self.name} has no web door")

    def __enter__(self) -> Contestant:
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def wait_until(self, count: int, timeout_s: float = 120.0) -> None:
        """Return when `count` objects can be found. Raises: Failed if that does not come to pass, or more are there."""
        deadline = monotonic() + timeout_s
        while (found := self.count()) != count:
            if found > count or monotonic() > deadline:
                raise Failed(f"{self.name} has {found} objects where {count} were sent")
            sleep(0.01)

    def peak_rss_bytes(self) -> int:
        """Return the peak resident size so far."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.peak_rss_bytes()

    def launch(self, argv: list[str], folder: Path | None = None) -> Process:
        """Start a program, in `folder` or the contestant's own; leaving the contestant ends it."""
        environ = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
        if self._nodelay:
            environ["TCP_NODELAY"] = "1"
        self._process = self._stack.enter_context(Process(argv, folder or self.folder, environ))
        return self._process


class Node(Contestant):
    """This node: one process, all roles, defaults."""

    name = "node"

    def start(self) -> None:
        self._web_port = free_port()
        config = self.folder / "config.toml"
        config.write_text(
            f'[node]\ndata_dir = "{self.folder}/data"\n[storescp]\nport = {self.dicom_port}\n'
            f"[server]\nport = {self._web_port}\n"
            f'[peers]\nbench = "{MOVE_AET}@127.0.0.1:{self.move_port}"\n'
        )
        process = self.launch([str(ROOT / ".venv/bin/dicomnode"), "run", "--config", str(config)])
        process.wait_for(lambda: b"ready" in process.out.read_bytes(), "ready")
        process.wait_for(lambda: answers(self.dicom_port) and answers(self._web_port), "open doors")

    def count(self) -> int:
        studies = self.door.get_json("/studies?includefield=NumberOfStudyRelatedInstances&limit=1000")
        return sum(study["00201208"]["Value"][0] for study in studies)

    @property
    def door(self) -> Door:
        return Door(self._web_port, "/dicomweb")


class Orthanc(Contestant):
    """Orthanc with its DICOMweb plugin."""

    name = "orthanc"

    def settings(self) -> dict[str, Any]:
        """Return its configuration."""
        return {
            "Name": "bench",
            "StorageDirectory": str(self.folder / "data"),
            "IndexDirectory": str(self.folder / "data"),
            "HttpPort": self._web_port,
            "DicomPort": self.dicom_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": 3600,
            "DicomModalities": {"bench": [MOVE_AET, "127.0.0.1", self.move_port]},
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "Plugins": [_ORTHANC_DICOMWEB],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def start(self) -> None:
        self._web_port = free_port()
        config = self.folder / "config.json"
        config.write_text(json.dumps(self.settings()))
        process = self.launch([_ORTHANC, str(config)])
        process.wait_for(lambda: answers(self.dicom_port) and answers(self._web_port), "open doors")

    def count(self) -> int:
        found: int = Door(self._web_port, "").get_json("/statistics")["CountInstances"]
        return found

    @property
    def door(self) -> Door:
        return Door(self._web_port, "/dicom-web")


class StoreScp(Contestant):
    """dcmtk's storescp: writes files, syncs nothing, indexes nothing."""

    name = "dcmtk"
    forking = False

    def start(self) -> None:
        (self.folder / "data").mkdir()
        argv = ["storescp", "-od", str(self.folder / "data"), "+xa"]
        process = self.launch([*argv, *(["--fork"] if self.forking else []), str(self.dicom_port)])
        process.wait_for(lambda: answers(self.dicom_port), "open door")

    def count(self) -> int:
        return len(os.listdir(self.folder / "data"))


class ForkingStoreScp(StoreScp):
    """The same with a process for each association."""

    forking = True


class Absent(msgspec.Struct, frozen=True):
    """A contestant that cannot run here, and why."""

    name: str
    reason: str


def absent() -> list[Absent]:
    """Return the contestants that this machine lacks."""
    wanted = {
        "node": ROOT / ".venv/bin/dicomnode",
        "orthanc": Path(_ORTHANC),
        "dcmtk": Path(shutil.which("storescp") or "storescp"),
    }
    missing = [Absent(name, f"{path} is not there") for name, path in wanted.items() if not path.exists()]
    if Path(_ORTHANC).exists() and not Path(_ORTHANC_DICOMWEB).exists():
        missing.append(Absent("orthanc", f"{_ORTHANC_DICOMWEB} is not there"))
    return missing
