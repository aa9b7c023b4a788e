"""dicomnode as processes by role over chosen backends, each of which can be taken away and given back."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from dicomnode.config import Config
from dicomnode.config_file import read_config
from tests.backends import proxy

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
_SHOWN = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]
_PATIENCE_S = 180.0


class Layout(msgspec.Struct, frozen=True):
    """What a cluster is made of: the plugin of each port, and the roles of each process by its name."""

    name: str
    uses: Mapping[str, str]
    processes: Mapping[str, Sequence[str]]

    @property
    def is_apart(self) -> bool:
        """Whether there are several processes."""
        return len(self.processes) > 1


ONE = {"node": ("storescp", "server", "consumer", "recorder", "transcoder")}
APART = {
    "storescp": ("storescp",),
    "server": ("server",),
    "consumer-1": ("consumer",),
    "consumer-2": ("consumer",),
    "recorder": ("recorder",),
    "transcoder-1": ("transcoder",),
    "transcoder-2": ("transcoder",),
}
EMBEDDED = Layout(
    "embedded",
    {"storage": "files", "broker": "sqlite", "database": "sqlite", "cache": "memory", "warehouse": "duckdb"},
    ONE,
)
RABBITMQ = Layout(
    "rabbitmq",
    {"storage": "files", "broker": "rabbitmq", "database": "postgres", "cache": "redis", "warehouse": "clickhouse"},
    APART,
)
KAFKA = Layout(
    "kafka",
    {"storage": "s3", "broker": "kafka", "database": "postgres", "cache": "redis", "warehouse": "clickhouse"},
    APART,
)
_SERVERS = frozenset({"rabbitmq", "kafka", "postgres", "redis", "clickhouse", "s3"})
_UNPROXIED = frozenset({"kafka"})  # its clients go to the address that it tells them


class Process:
    """One dicomnode, which a supervisor would start again when it ends by itself."""

    def __init__(self, name: str, roles: Sequence[str], folder: Path, config: Path, environment: Mapping[str, str]):
        self.name = name
        self.roles = tuple(roles)
        self.folder = folder / name
        self._config = config
        self._environment = dict(environment)
        self._log = folder / f"{name}.log"
        self._popen: subprocess.Popen[str] | None = None
        self._ports: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        self._ready = threading.Event()
        self.starts = 0

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def begin(self) -> None:
        """Start it, and do not wait: a backend may be away."""
        words = ["--config", str(self._config), "--set", f"node.data_dir={self.folder}"]
        words += [word for role in self.roles for word in ("--role", role)]
        # Its doors come back where they were: those who use them know no other place.
        words += [word for key, value in self._ports.items() for word in ("--set", f"{key}={value}")]
        with self._log.open("a") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "dicomnode", "run", *words],
                stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment,
            )  # fmt: skip
        self.starts += 1
        self._ready.clear()
        threading.Thread(target=self._read, args=(self._popen,), daemon=True).start()

    def _read(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout is not None
        with popen.stdout:
            for line in popen.stdout:
                if line.startswith("ready"):
                    self.addresses = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
                    if "storescp" in self.addresses:
                        self._ports["storescp.port"] = self.addresses["storescp"].rpartition(":")[2]
                    if "server" in self.addresses:
                        self._ports["server.port"] = self.addresses["server"].rpartition(":")[2]
                    if popen is self._popen:
                        self._ready.set()

    def wait_ready(self) -> None:
        """Return when it says that it is ready."""
        ends = time.monotonic() + _PATIENCE_S
        while not self._ready.wait(0.05):
            assert self.alive, f"{self.name} ended: {self.told()}"
            assert time.monotonic() < ends, f"{self.name} is not ready: {self.told()}"

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it as an operator does; return its exit code."""
        return self._end(signal.SIGTERM)

    def install(self, packages: Path) -> None:
        """Have it run, from its next start on, with other versions of plugins."""
        self._environment["PYTHONPATH"] = str(packages)

    def ask_to_stop(self) -> None:
        """Have it begin to drain."""
        if self._popen is not None:
            self._popen.send_signal(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        self.addresses = {}
        if self._popen is None:
            return 0
        popen, self._popen = self._popen, None
        popen.send_signal(how)
        return popen.wait(_PATIENCE_S)

    def pause(self) -> None:
        """Have it hang."""
        if self._popen is not None:
            self._popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        if self._popen is not None:
            self._popen.send_signal(signal.SIGCONT)

    def told(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


class Backend(msgspec.Struct):
    """A server behind a port. `proxy` is None where clients go past it."""

    name: str
    server: Any
    proxy: proxy.Proxy | None = None

    def take_away(self) -> None:
        """Have it gone in the middle of whatever it does."""
        (getattr(self.server, "kill", None) or self.server.stop)()

    def give_back(self) -> None:
        """Have it answer again, with what it kept."""
        self.server.start()


class Cluster:
    """The processes and the backends of a layout."""

    def __init__(self, layout: Layout, folder: Path, backends: Mapping[str, Backend], told: Mapping[str, Any]) -> None:
        self.layout = layout
        self.folder = folder
        self.backends = dict(backends)
        self._file = folder / "config.toml"
        self._file.write_text(_toml(told))
        self._environment: Mapping[str, str] = os.environ
        self._stamp = folder / "clock"
        self.clock(0)
        environment = os.environ | {"PYTHONWARNINGS": "default"}
        if FAKETIME is not None:
            environment |= {
                "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._stamp),
                "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
        self.processes = {
            name: Process(name, roles, folder, self._file, environment) for name, roles in layout.processes.items()
        }

    def clock(self, seconds: int) -> None:
        """Have the clocks of all processes wrong by so much."""
        later = self._stamp.with_suffix(".new")
        later.write_text(f"{seconds:+d}\n")
        later.replace(self._stamp)

    def config(self) -> Config:
        """Return the configuration for an operator's commands."""
        return read_config(self._file, [f"node.data_dir={self.operator_folder}"])

    def start(self) -> None:
        """Have every process ready."""
        for process in self.processes.values():
            if not process.alive:
                process.begin()
        for process in self.processes.values():
            process.wait_ready()

    def revive(self) -> list[str]:
        """Start again what ended by itself, as a supervisor does; return the names."""
        ended = [process for process in self.processes.values() if not process.alive]
        for process in ended:
            process.addresses = {}
            process.begin()
        return [process.name for process in ended]

    def stop(self) -> None:
        """Have every process drained and gone."""
        processes = [process for process in self.processes.values() if process.alive]
        for process in processes:
            process.resume()
            process.ask_to_stop()
        for process in processes:
            assert process.stop() == 0, process.told()

    def kill(self) -> None:
        """Have every process gone at once."""
        for process in self.processes.values():
            process.kill()

    def role(self, role: str) -> list[Process]:
        """Return the processes that have a role."""
        return [process for process in self.processes.values() if role in process.roles]

    def scp(self) -> tuple[str, int]:
        """Return where objects are sent to. Raises: KeyError, it is not ready."""
        host, _, port = self.role("storescp")[0].addresses["storescp"].partition("@")[2].rpartition(":")
        return host, int(port)

    @property
    def url(self) -> str:
        """Where the web door is."""
        return self.role("server")[0].addresses["server"]

    @property
    def operator_folder(self) -> Path:
        """The data folder that an operator's commands use: the only process's, which must be stopped, or another."""
        return self.folder / "operator" if self.layout.is_apart else next(iter(self.processes.values())).folder

    def install(self, packages: Path) -> None:
        """Have an operator's commands run with other versions of plugins."""
        self._environment = os.environ | {"PYTHONPATH": str(packages)}

    def command(self, *words: str, patience_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command as an operator does."""
        options = ["--config", str(self._file), "--set", f"node.data_dir={self.operator_folder}"]
        return subprocess.run(
            [sys.executable, "-m", "dicomnode", *words, *options],
            capture_output=True, text=True, timeout=patience_s, check=False, env=self._environment,
        )  # fmt: skip

    def told(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"== {process.name}\n{process.told()}" for process in self.processes.values())


def _toml(table: Mapping[str, Any]) -> str:
    """Return tables of tables of plain values as TOML, which JSON's texts, numbers and lists are as well."""
    lines: list[str] = []
    for name, values in table.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _tables(layout: Layout, folder: Path, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    tables: dict[str, Any] = {
        "node": {"log": "json"},
        "storescp": {"port": 0},
        "storescp.limits": {"storage_free": 1024 * 1024},
        "server": {"port": 0},
        "transcoder": {"viewer_transfer_syntaxes": _SHOWN},
        "recorder": {"linger_s": 0.2},
        "consumer": {"linger_s": 0.05},
    }
    for port, plugin in layout.uses.items():
        tables[port] = {"use": plugin}
        tables[f"{port}.options"] = dict(options.get(port, {}))
    if layout.uses["storage"] == "files":
        tables["storage.options"]["reserve_bytes"] = 0  # a disk is full when it is full
    if layout.uses["storage"] == "files" and layout.is_apart:
        tables["storage.options"]["root"] = str(folder / "storage")
    return tables


@contextmanager
def running(layout: Layout, folder: Path) -> Iterator[Cluster]:
    """Have a cluster ready; skip where one of its servers is not here."""
    with ExitStack() as stack:
        backends: dict[str, Backend] = {}
        options: dict[str, dict[str, Any]] = {}
        for port, plugin in layout.uses.items():
            if plugin not in _SERVERS:
                continue
            module = importlib.import_module(f"tests.backends.{plugin}")
            server = stack.enter_context(module.running(own=True))
            told = module.options(port, server)
            backend = backends[port] = Backend(plugin, server)
            address = "endpoint" if plugin == "s3" else "url"
            if plugin not in _UNPROXIED:
                parts = urlsplit(told[address])
                backend.proxy = stack.enter_context(proxy.before(parts.hostname or "127.0.0.1", parts.port or 0))
                told = {**told, address: backend.proxy.url(told[address])}
            options[port] = told
        cluster = Cluster(layout, folder, backends, _tables(layout, folder, options))
        stack.callback(_ended, cluster)
        cluster.start()
        yield cluster


def _ended(cluster: Cluster) -> None:
    for process in cluster.processes.values():
        with contextlib.suppress(ProcessLookupError):
            process.kill()


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """Have a file system of its own with so much room; skip where that cannot be had."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("chaos on a disk that fills up was not tested: mounting a small tmpfs needs root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(folder)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"chaos on a disk that fills up was not tested: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
