"""The units of systemd, as its own programs judge them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.placed import placed

PATH = {"/opt/dicomnode/bin/dicomnode": "/bin/true"}  # it is not installed there


@pytest.fixture
def units(tmp_path: Path) -> Path:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("the units of systemd were not verified: no systemd-analyze here (scripts/peers installs it)")
    for name in ("storescp", "consumer-2"):
        (tmp_path / f"dicomnode@{name}.service").write_text(placed("systemd/dicomnode@.service", PATH))
    (tmp_path / "dicomnode.target").write_text(placed("systemd/dicomnode.target", {}))
    return tmp_path


def analyzed(*words: str) -> str:
    told = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=50)
    assert told.returncode == 0, told.stderr
    return told.stdout + told.stderr


def test_systemd_takes_the_units(units: Path) -> None:
    told = analyzed("verify", *(str(unit) for unit in sorted(units.iterdir())))
    assert "dicomnode" not in told, "a line about a unit of ours is a fault of it"


def test_little_is_open_to_a_process(units: Path) -> None:
    told = analyzed("security", "--offline=true", str(units / "dicomnode@storescp.service"))
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert exposure is not None
    assert float(exposure[1]) < 2.0


def test_a_process_drains_is_started_again_and_reloads() -> None:
    lines = placed("systemd/dicomnode@.service", {}).splitlines()
    for wanted in (
        "Restart=always",
        "RestartPreventExitStatus=2",
        "TimeoutStopSec=90",
        "LimitNOFILE=65536",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "WantedBy=dicomnode.target",
        "PartOf=dicomnode.target",
    ):
        assert wanted in lines
