"""Where the figures were taken: the commit, the processors, the kernel, the file systems. For the JSON lines."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dicomnode import __version__

_ROOT = Path(__file__).parent.parent


class Machine(msgspec.Struct, frozen=True):
    """A machine and what ran on it."""

    version: str
    commit: str
    processors: int
    processor: str
    memory_mb: int
    kernel: str
    python: str
    file_systems: dict[str, str]
    load_before: float


def machine(places: Mapping[str, Path]) -> Machine:
    """Return this machine, with the type of the file system of each place and its load now."""
    return Machine(
        __version__,
        _commit(),
        os.cpu_count() or 0,
        _processor(),
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6,
        platform.release(),
        platform.python_version(),
        {where: f"{_file_system(path)} at {path}" for where, path in places.items()},
        os.getloadavg()[0],
    )


def _commit() -> str:
    argv = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(path: Path) -> str:
    """Return the type of the mount with the longest path above `path`."""
    found = (0, "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind = line.split()[:3]
        if path.resolve().is_relative_to(mount):
            found = max(found, (len(mount), kind))
    return found[1]
