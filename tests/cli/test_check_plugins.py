from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicomnode.cli.main import main


def test_a_sound_configuration_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--set", f"node.data_dir={tmp_path / 'data'}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "sound": True,
        "findings": {"configuration": [], "storage": [], "broker": [], "database": [], "cache": [], "warehouse": []},
    }


def test_every_fault_is_told_without_touching_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", f"node.data_dir={tmp_path / 'data'}", "--set", "storage.options.x=1", "--set", "broker.use=nope"]
    assert main(["check", *words]) == 1
    told = capsys.readouterr().err
    assert "storage.options.x: there is no such option" in told
    assert "broker.use: there is no broker plugin 'nope'" in told
    assert not (tmp_path / "data").exists()


def test_a_backend_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    words = ["--set", f"node.data_dir={tmp_path / 'data'}", "--set", f"storage.options.root={tmp_path / 'file' / 'x'}"]
    assert main(["check", *words]) == 1
    assert "storage" in capsys.readouterr().err


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    listed = {(row["port"], row["name"]): row for row in json.loads(capsys.readouterr().out)}
    assert set(listed["storage", "files"]["capabilities"]) == {"LocalPath", "FreeSpace", "Deferring"}
    assert set(listed["broker", "sqlite"]["capabilities"]) == {"Overlap", "Carrier", "Barrier", "FreeSpace"}
    assert all(not row["problem"] for row in listed.values())


def test_plugins_are_shown_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert "dicomnode_sqlite" in capsys.readouterr().out.replace("\n", "")
