"""A power cut takes files that were not yet on the disk; what was acknowledged comes back from the broker's log.

A real one cannot be had here. The node is killed before its consumer has settled anything, and what the kernel would
have lost is taken away by hand: files that were never synced are cut, filled with zeros, or gone.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from dicomnode_files.directories import Open
from dicomnode_files.storage import _AT_ONCE_S, _try_writing
from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, retrieved, stow


@pytest.mark.parametrize("lost", ["cut", "zeros", "gone", "nothing"])
def test_what_was_acknowledged_comes_back(start: Callable[..., Running], tmp_path: Path, lost: str) -> None:
    data_dir, study = tmp_path / "data", generate_uid()
    node = start("consumer.linger_s=3600", data_dir=data_dir)
    sent = {}
    for number in range(20):
        ds = make(StudyInstanceUID=study, InstanceNumber=number)
        file = part10(ds)
        assert stow(node, file)[0] == 200
        sent[ds.SOPInstanceUID] = data_set_of(file)
    node.kill()
    if not _laden(data_dir) and min(_try_writing(_opened(data_dir)) for _ in range(3)) < _AT_ONCE_S:
        pytest.skip("the temporary folder is in memory: nothing goes with the messages there")
    assert _laden(data_dir) == 20
    for path in (data_dir / "storage").rglob("*.dcm"):
        _lose(path, lost)
    node = start(data_dir=data_dir)
    found = {row["00080018"]["Value"][0]: row for row in instances(node)}
    assert found.keys() == sent.keys()
    for uid, row in found.items():
        assert data_set_of(retrieved(node, study, row["0020000E"]["Value"][0], uid)) == sent[uid]
    assert node.stop() == 0
    assert _laden(data_dir) == 0
    checked = dicomnode("fsck", "--digests", *sets(data_dir))
    assert checked.returncode == 0, checked.stdout


def _opened(folder: Path) -> Open:
    return Open(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def _laden(data_dir: Path) -> int:
    connection = sqlite3.connect(data_dir / "broker.sqlite")
    try:
        count: int = connection.execute("SELECT count(*) FROM message WHERE cargo IS NOT NULL").fetchone()[0]
    finally:
        connection.close()
    return count


def _lose(path: Path, lost: str) -> None:
    size = path.stat().st_size
    if lost == "cut":
        os.truncate(path, size // 2)
    elif lost == "zeros":
        path.write_bytes(bytes(size))
    elif lost == "gone":
        path.unlink()
