"""Many requests at once, by wrk: one C process with a few connections."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.processes import Failed
from bench.web import Door

_SCRIPT = Path(__file__).with_name("storm.lua")


class Storm(msgspec.Struct, frozen=True):
    """What wrk counted; times in ms, latencies of single requests."""

    requests_per_s: float
    bytes_per_request: float
    p50_ms: float
    p95_ms: float


class _Counted(msgspec.Struct, frozen=True):
    requests: int
    bytes: int
    duration_us: int
    failed: int
    p50_us: float
    p95_us: float


def storm(door: Door, paths: Sequence[str], accept: str, duration_s: int, folder: Path) -> Storm:
    """Ask for `paths` in turn, over four connections, for `duration_s`.

    Raises: Failed if any request failed or was answered with an error, or none was answered.
    """
    listed = folder / "paths"
    listed.write_text("".join(f"{door.root}{path}\n" for path in paths))
    argv = ["wrk", "-t1", "-c4", f"-d{duration_s}s", "--timeout", "30s", "-s", str(_SCRIPT)]
    done = subprocess.run(
        [*argv, f"http://127.0.0.1:{door.port}", "--", str(listed), accept],
        capture_output=True,
        check=False,
        timeout=duration_s + 60,
    )
    words = done.stdout.rpartition(b"counted ")[2]
    if done.returncode or not words.startswith(b"{"):
        raise Failed(f"wrk: {done.stderr.decode(errors='replace').strip()[-200:]}")
    counted = msgspec.json.decode(words, type=_Counted)
    if counted.failed:
        raise Failed(f"{counted.failed} of {counted.requests} requests failed")
    if not counted.requests:
        raise Failed(f"no request was answered within {duration_s} s")
    rate = counted.requests / counted.duration_us * 1e6
    return Storm(rate, counted.bytes / counted.requests, counted.p50_us / 1000, counted.p95_us / 1000)
