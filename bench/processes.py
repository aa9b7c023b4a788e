"""Programs started beside us, each in a process group of its own: ending one ends its children and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep


class Failed(Exception):
    """A contestant or a sender did not do what was measured; the figure would mean nothing."""


class Process:
    """A running program and its children. Leaving the context ends them all."""

    def __init__(self, argv: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
        self.out = folder / "stdout"
        self.err = folder / "stderr"
        self._argv = argv
        self._folder = folder
        self._environ = environ
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._child = subprocess.Popen(
                self._argv, stdout=out, stderr=err, cwd=self._folder, env=self._environ, start_new_session=True
            )
        return self

    def __exit__(self, *exc: object) -> None:
        child = self._running()
        _signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _signal_group(child.pid, signal.SIGKILL)
            child.wait()
            _wait_for_end(child.pid)

    def wait_for(self, holds: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Return as soon as `holds()`. Raises: Failed if the program ended, or did not come so far in `timeout_s`."""
        deadline = monotonic() + timeout_s
        while not holds():
            if self._running().poll() is not None:
                raise Failed(f"{self._argv[0]} ended before {what}: {self._last_words()}")
            if monotonic() > deadline:
                raise Failed(f"{self._argv[0]}: no {what} in {timeout_s:.0f} s: {self._last_words()}")
            sleep(0.02)

    def peak_rss_bytes(self) -> int:
        """Return the sum of the peak resident sizes of the living processes of the group."""
        return sum(_peak_rss_bytes(pid) for pid in _members(self._running().pid))

    def processor_s(self) -> float:
        """Return the processor time of the living processes of the group so far, in seconds."""
        return sum(_processor_s(pid) for pid in _members(self._running().pid))

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError("not started")
        return self._child

    def _last_words(self) -> str:
        lines = (self.err.read_text(errors="replace") or self.out.read_text(errors="replace")).strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Tell whether somebody accepts connections on `port` of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _wait_for_end(group: int) -> None:
    """Return when nobody of a killed group holds memory any more; a zombie does not."""
    deadline = monotonic() + 10
    while any(_peak_rss_bytes(pid) for pid in _members(group)) and monotonic() < deadline:
        sleep(0.005)


def _members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
    return found


def _peak_rss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _processor_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        # What stands behind the name, which may hold spaces: state is the 3rd field, utime and stime 14th and 15th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
