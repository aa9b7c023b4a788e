"""A full disk is told honestly to every sender, and nothing that was acknowledged before is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, retrieved, storescu, stow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a really full disk was not tested: mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a really full disk was not tested: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.external("storescu")
def test_enospc_is_answered_honestly(start: Callable[..., Running], small_disk: Path, tmp_path: Path) -> None:
    node = start(
        "storage.options.reserve_bytes=0",
        "storescp.limits.storage_free=0",
        "consumer.catch_up_s=1",
        data_dir=small_disk / "data",
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * 1024 * 1024))
    kept: dict[str, tuple[str, str, bytes]] = {}
    refused = 0
    for number in range(60):
        ds = make(Rows=512, Columns=512, PixelData=bytes(512 * 1024), InstanceNumber=number)
        status, _ = stow(node, part10(ds))
        if status == 200:
            kept[ds.SOPInstanceUID] = (ds.StudyInstanceUID, ds.SeriesInstanceUID, data_set_of(part10(ds)))
        else:
            assert status in (503, 507), status
            refused += 1
    assert kept
    assert refused
    path = tmp_path / "one-more.dcm"
    path.write_bytes(part10(make(Rows=1024, Columns=1024, PixelData=bytes(2 * 1024 * 1024))))
    sent = storescu(node, path, options=["-v"])
    assert "Refused: OutOfResources" in sent.stdout + sent.stderr
    assert node.get("/dicomweb/studies?limit=1")[0] in (200, 204, 503), "it must not hang"
    ballast.unlink()  # the operator makes room, and the index catches up
    deadline = time.monotonic() + 40
    while len(instances(node)) < len(kept) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = {row["00080018"]["Value"][0] for row in instances(node)}
    assert kept.keys() <= found
    for uid, (study, series, data_set) in kept.items():
        assert data_set_of(retrieved(node, study, series, uid)) == data_set
    assert node.stop() == 0
    checked = dicomnode("fsck", "--digests", *sets(small_disk / "data"))
    assert "missing" not in checked.stdout + checked.stderr
    assert "damaged" not in checked.stdout + checked.stderr


def test_the_reserve_refuses_before_the_disk_is_full(start: Callable[..., Running], small_disk: Path) -> None:
    node = start(
        "storage.options.reserve_bytes=20000000", "storescp.limits.storage_free=0", data_dir=small_disk / "data"
    )
    statuses = [stow(node, part10(make()))[0]]
    for _ in range(60):  # the room is looked at a few times a second
        statuses.append(stow(node, part10(make(Rows=512, Columns=512, PixelData=bytes(512 * 1024))))[0])
        if statuses[-1] != 200:
            break
        time.sleep(0.05)
    assert statuses[0] == 200
    assert statuses[-1] in (503, 507)
    assert node.get("/readyz")[0] == 503
