from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench.processes import Failed, Process, answers, free_port

PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def alive(pid: int) -> bool:
    """Tell whether `pid` runs; a zombie that its new parent has not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_leaving_ends_the_children_too(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", PARENT], tmp_path, dict(os.environ)) as process:
        process.wait_for(lambda: process.out.read_bytes().endswith(b"\n"), "pid")
        pid = int(process.out.read_text())
        assert alive(pid)
        assert process.peak_rss_bytes() > 1_000_000
    late = time.monotonic() + 10
    while alive(pid) and time.monotonic() < late:
        time.sleep(0.01)  # it was told; a busy machine takes a moment
    assert not alive(pid)


def test_a_program_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('no such luck')"]
    with Process(argv, tmp_path, dict(os.environ)) as process, pytest.raises(Failed, match="no such luck"):
        process.wait_for(lambda: False, "ready")


def test_nobody_answers_on_a_free_port() -> None:
    assert not answers(free_port())
