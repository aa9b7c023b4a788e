"""What was lost between storage and index is found, told, and made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, stow


def _filled(start: Callable[..., Running], count: int, *options: str) -> Path:
    node = start(*options)
    for number in range(count):
        assert stow(node, part10(make(InstanceNumber=number)))[0] == 200
    assert len(instances(node)) == count
    assert node.stop() == 0
    return node.data_dir


def _told(command: str, folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = dicomnode(command, "--json", *words, *sets(folder))
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_an_index_that_is_gone_is_made_again(start: Callable[..., Running]) -> None:
    folder = _filled(start, 6)
    for file in folder.glob("index.sqlite*"):
        file.unlink()
    code, checked = _told("fsck", folder)
    assert (code, len(checked["unknown"])) == (1, 6)
    assert _told("sweep", folder) == (0, {"objects": 6, "published": 6, "incomplete": [], "recorded": 0})
    assert _told("sweep", folder) == (0, {"objects": 6, "published": 0, "incomplete": [], "recorded": 0})
    assert _told("fsck", folder, "--digests")[0] == 0
    assert len(instances(start(data_dir=folder))) == 6


def test_repair_sweeps_first(start: Callable[..., Running]) -> None:
    folder = _filled(start, 2)
    for file in folder.glob("index.sqlite*"):
        file.unlink()
    assert _told("fsck", folder, "--repair")[0] == 0


def test_an_archive_from_before_there_was_a_warehouse_is_filled_in(start: Callable[..., Running]) -> None:
    folder = _filled(start, 5, "warehouse.use=off")
    code, checked = _told("fsck", folder, "--set", "warehouse.use=off")
    assert (code, checked["unrecorded"], list(checked["counts"])) == (0, 0, ["database"])
    told = dicomnode("fsck", *sets(folder))
    assert told.returncode == 1
    assert "5 unrecorded (indexed, but not in the warehouse: dicomnode fsck --repair)" in told.stdout
    assert "5 instances" in told.stdout
    assert "warehouse: 0 dicom_object_meta" in told.stdout
    assert _told("sweep", folder) == (0, {"objects": 5, "published": 0, "incomplete": [], "recorded": 5})
    code, checked = _told("fsck", folder)
    assert (code, checked["unrecorded"], checked["sound"]) == (0, 0, True)
    counts = checked["counts"]["warehouse"]
    assert (counts["dicom_object_meta"], counts["dicom_image_meta"]) == (5, 5), "and what the archive says of them"


def test_half_a_file_is_never_indexed(start: Callable[..., Running]) -> None:
    folder = _filled(start, 2)
    for file in folder.glob("index.sqlite*"):
        file.unlink()
    victim = next((folder / "storage").rglob("*.dcm"))
    victim.write_bytes(victim.read_bytes()[:-40])
    code, swept = _told("sweep", folder)
    assert (code, swept["published"], len(swept["incomplete"])) == (1, 1, 1)
    assert len(instances(start(data_dir=folder))) == 1


def test_damage_and_loss_are_told(start: Callable[..., Running]) -> None:
    folder = _filled(start, 3)
    lost, flipped, _ = sorted((folder / "storage").rglob("*.dcm"))
    lost.unlink()
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    code, checked = _told("fsck", folder, "--digests")
    assert code == 1
    assert [len(checked[what]) for what in ("missing", "damaged", "unknown")] == [1, 1, 0]


def test_neither_runs_beside_a_node(node: Running) -> None:
    for command in ("sweep", "fsck"):
        told = dicomnode(command, *sets(node.data_dir))
        assert told.returncode == 2
        assert "in use by process" in told.stderr
