"""`dicomnode import`: on the data folder itself, and into a node that is running on it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, retrieved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    for number in range(5):
        (folder / "below" / f"{number}").write_bytes(part10(make(InstanceNumber=number)))
    (folder / "README.txt").write_text("not an image")
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"../../escape/{number}.dcm", part10(make(InstanceNumber=number)))
    return folder


def _imported(*words: str) -> dict[str, int]:
    told = dicomnode("import", "--json", *words)
    assert told.returncode == 0, told.stderr + told.stdout
    summary: dict[str, int] = json.loads(told.stdout)
    return {outcome: summary[outcome] for outcome in ("new", "duplicate", "skipped", "refused")}


def test_a_folder_goes_in_once(folder: Path, start: Callable[..., Running], tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert _imported(str(folder), *sets(data)) == {"new": 8, "duplicate": 0, "skipped": 1, "refused": 0}
    assert _imported(str(folder), *sets(data)) == {"new": 0, "duplicate": 8, "skipped": 1, "refused": 0}
    node = start(data_dir=data)
    assert len(instances(node)) == 8
    assert not (tmp_path / "escape").exists()


def test_a_running_node_takes_the_files_through_its_door(folder: Path, node: Running) -> None:
    port = node.url.rsplit(":", 1)[1]
    words = [str(folder), *sets(node.data_dir), "--set", f"server.port={port}"]
    assert _imported(*words) == {"new": 8, "duplicate": 0, "skipped": 1, "refused": 0}
    assert _imported(*words) == {"new": 0, "duplicate": 8, "skipped": 1, "refused": 0}
    for row in instances(node):
        uids = [row[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018")]
        assert data_set_of(retrieved(node, *uids))


def test_url_names_another_node(folder: Path, node: Running, tmp_path: Path) -> None:
    assert _imported(str(folder), "--url", node.url, *sets(tmp_path / "elsewhere"))["new"] == 8
    assert not (tmp_path / "elsewhere").exists()


def test_a_dicomdir_stands_for_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cd"
    (folder / "IMAGES").mkdir(parents=True)
    (folder / "DICOMDIR").write_bytes(b"whatever it says")
    (folder / "IMAGES" / "1").write_bytes(part10(make()))
    assert _imported(str(folder / "DICOMDIR"), *sets(tmp_path / "data"))["new"] == 1


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    told = dicomnode("import", str(tmp_path / "nowhere"), *sets(tmp_path / "data"))
    assert told.returncode == 2
    assert "there is no such file or folder" in told.stderr


def test_a_zip_that_inflates_too_far_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.dcm", bytes(80_000_000))
    told = dicomnode("import", "--json", str(bomb), *sets(tmp_path / "data", "server.limits.part=1000000"))
    assert told.returncode == 1
    assert "inflates to more than 1000000 bytes" in json.loads(told.stdout)["refusals"][0]["reason"]


def test_no_node_to_import_into_is_told(folder: Path, tmp_path: Path) -> None:
    told = dicomnode("import", str(folder), "--url", "http://127.0.0.1:9", *sets(tmp_path / "data"))
    assert told.returncode == 1
    assert "does not answer" in told.stderr
    assert "Traceback" not in told.stderr
