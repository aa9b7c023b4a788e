"""Two sends of one SOP Instance UID, at once or later, equal or different, lose nothing that was acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, retrieved, stow


def _kept(node: Running) -> list[bytes]:
    return [data_set_of(path.read_bytes()) for path in sorted((node.data_dir / "storage").rglob("*.dcm"))]


def test_equal_sends_at_once_are_kept_once(node: Running) -> None:
    file = part10(make())
    with ThreadPoolExecutor(12) as pool:
        statuses = [status for status, _ in pool.map(lambda _: stow(node, file), range(36))]
    assert statuses == [200] * 36
    assert len(instances(node)) == 1
    assert _kept(node) == [data_set_of(file)]


@pytest.mark.parametrize("policy", ["keep-first", "replace"])
def test_different_sends_at_once_are_all_kept(policy: str, start: Callable[..., Running]) -> None:
    node = start(f"ingest.duplicates={policy}")
    ds = make()
    files = []
    for number in range(12):
        ds.ImageComments = f"version {number}"
        files.append(part10(ds))
    with ThreadPoolExecutor(12) as pool:
        assert [status for status, _ in pool.map(lambda file: stow(node, file), files)] == [200] * 12
    assert len(instances(node)) == 1
    assert sorted(_kept(node)) == sorted(map(data_set_of, files))
    served = retrieved(node, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert data_set_of(served) in list(map(data_set_of, files))


@pytest.mark.parametrize(("policy", "served"), [("keep-first", 0), ("replace", 1)])
def test_policy_chooses_which_is_served(policy: str, served: int, start: Callable[..., Running]) -> None:
    node = start(f"ingest.duplicates={policy}")
    ds = make(StudyDescription="first")
    files = [part10(ds)]
    ds.StudyDescription = "second"
    files.append(part10(ds))
    for file in files:
        assert stow(node, file)[0] == 200
        assert len(instances(node)) == 1
    got = retrieved(node, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert data_set_of(got) == data_set_of(files[served])
    study = node.json("/dicomweb/studies?includefield=StudyDescription")[0]
    assert study["00081030"]["Value"] == [("first", "second")[served]]
    assert study["00201208"]["Value"] == [1]


def test_after_any_of_it_storage_and_index_agree(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start()
    ds = make()
    for text in ("a", "a", "b", "a", "b", "c"):
        ds.ImageComments = text
        assert stow(node, part10(ds))[0] == 200
    instances(node)
    assert node.stop() == 0
    checked = dicomnode("fsck", "--digests", *sets(node.data_dir))
    assert (checked.returncode, checked.stdout.splitlines()[0]) == (0, "3 objects indexed: sound")
