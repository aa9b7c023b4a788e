"""Our own client beside our own node: what goes out comes back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from tests.corpus import make, part10, wheel_files
from tests.flows.running import Running, dicomnode

ROOT = Path(__file__).parent.parent.parent


def _peer(node: Running) -> str:
    host, port = node.scp
    return f"DICOMNODE@{host}:{port}"


def _files(folder: Path, study: str, count: int = 5) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(
            part10(make(StudyInstanceUID=study, SOPInstanceUID=f"{study}.{number}", PatientName="Doe^Jane"))
        )
    return paths


def test_what_is_stored_is_found_fetched_and_committed(shared: Running, tmp_path: Path) -> None:
    peer, study = _peer(shared), "1.2.30.1"
    paths = _files(tmp_path / "in", study)
    assert json.loads(dicomnode("store", peer, str(tmp_path / "in"), "--json", cwd=tmp_path).stdout)["stored"] == 5

    found = dicomnode("find", peer, "-k", f"StudyInstanceUID={study}", "--json", cwd=tmp_path)
    assert json.loads(found.stdout)["00201208"]["Value"] == [5]
    relational = dicomnode("find", peer, "--level", "image", "-k", f"StudyInstanceUID={study}", cwd=tmp_path)
    assert relational.returncode == 1
    assert "SeriesInstanceUID" in relational.stderr

    got = dicomnode("get", peer, "-k", f"StudyInstanceUID={study}", "--to", "there", "--json", cwd=tmp_path)
    assert json.loads(got.stdout)["completed"] == 5, got
    for path in paths:
        sent = pydicom.dcmread(path)
        assert pydicom.dcmread(tmp_path / "there" / f"{sent.SOPInstanceUID}.dcm") == sent

    committed = dicomnode("commit", peer, str(tmp_path / "in"), "--timeout", "30", "--json", cwd=tmp_path)
    assert len(json.loads(committed.stdout)["committed"]) == 5


def test_compressed_objects_come_as_they_are_kept(shared: Running, tmp_path: Path) -> None:
    peer = _peer(shared)
    [path] = [path for path in wheel_files() if path.name == "examples_jpeg2k.dcm"]
    sent = pydicom.dcmread(path)
    assert dicomnode("store", peer, str(path), cwd=tmp_path).returncode == 0
    words = ("get", peer, "-k", f"StudyInstanceUID={sent.StudyInstanceUID}", "--to", "there")
    assert dicomnode(*words, cwd=tmp_path).returncode == 0
    got = pydicom.dcmread(tmp_path / "there" / f"{sent.SOPInstanceUID}.dcm")
    assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert got.PixelData == sent.PixelData


def test_the_worklist_is_asked_for(shared: Running, tmp_path: Path) -> None:
    answer = dicomnode("worklist", _peer(shared), "--date", "today", "--json", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (0, "")


def test_a_move_to_nobody_is_refused(shared: Running, tmp_path: Path) -> None:
    words = ("move", _peer(shared), "-k", "StudyInstanceUID=1.2.3", "--to", "NOBODY", "--json")
    answer = dicomnode(*words, cwd=tmp_path)
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["status"] == 0xA801


@pytest.mark.parametrize("page", ["scu.md"])
def test_the_example_in_the_page_runs(shared: Running, tmp_path: Path, page: str) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert code
    script = tmp_path / "example.py"
    script.write_text(code[1])
    paths = _files(tmp_path / "in", "1.2.30.2", 3)
    ran = subprocess.run(
        [sys.executable, str(script), _peer(shared), *map(str, paths)],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "3 stored, 0 failed" in ran.stdout
    assert "3 will be kept" in ran.stdout
    assert "1.2.30.2" in ran.stdout
