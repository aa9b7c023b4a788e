"""Each fuzzer for five seconds, from its seeds; for hours by hand with `python -m tests.fuzz TARGET --seconds N`."""

from __future__ import annotations

import base64
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parent.parent.parent
SECONDS = 5

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="not fuzzed: atheris has no wheel for this Python and machine"
)


def test_every_target_has_seeds() -> None:
    assert set(SEEDS) == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_do_no_harm(target: str) -> None:
    seeds = list(SEEDS[target]())
    assert len(seeds) >= 3
    assert sum(map(len, seeds)) < 100_000
    for seed in seeds:
        for data in (seed, seed[: len(seed) // 2], seed[1:], seed + seed, b""):
            TARGETS[target](data)


@needs_atheris
@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(SECONDS), "--folder", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=110, check=False)
    told = ran.stderr.decode(errors="replace") + ran.stdout.decode(errors="replace")
    found = [base64.b64encode(path.read_bytes()).decode() for path in tmp_path.iterdir() if path.is_file()]
    assert ran.returncode == 0, f"{told[-4000:]}\n{found}"
    assert found == []
    executed = re.search(r"number_of_executed_units: (\d+)", told)
    assert executed
    assert int(executed[1]) > 100, told[-2000:]
