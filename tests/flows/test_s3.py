"""A node whose objects are in a bucket: what storescu sends comes back byte for byte, over every door."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends import s3, started
from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, retrieved, storescu, stow

pytestmark = [pytest.mark.external("storescu"), pytest.mark.timeout(180)]


def in_bucket(options: dict[str, Any]) -> list[str]:
    return ["storage.use=s3", *(f"storage.options.{name}={value}" for name, value in options.items())]


def written(folder: Path, count: int, size: int = 128) -> dict[str, bytes]:
    """Write objects to send; return each one's data set by its SOP Instance UID."""
    found = {}
    for number in range(count):
        ds = make(
            InstanceNumber=number, Rows=1, Columns=size // 2, PixelData=number.to_bytes(2, "little") * (size // 2)
        )
        file = part10(ds)
        (folder / f"{number}.dcm").write_bytes(file)
        found[ds.SOPInstanceUID] = data_set_of(file)
    return found


def uids(row: dict[str, Any]) -> tuple[str, str, str]:
    study, series, sop = (row[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    return study, series, sop


def same(node: Running, sent: dict[str, bytes]) -> None:
    rows = [uids(row) for row in instances(node)]
    assert sorted(sop for *_, sop in rows) == sorted(sent)
    for study, series, sop in rows:
        body = retrieved(node, study, series, sop)
        assert sent[sop] in body
        status, frame = node.get(f"/dicomweb/studies/{study}/series/{series}/instances/{sop}/frames/1", "*/*")
        assert status == 200
        assert sent[sop][-128:] in frame
        assert node.json(f"/dicomweb/studies/{study}/series/{series}/instances/{sop}/metadata")


def test_in_and_out_and_checked(start: Callable[..., Running], tmp_path: Path) -> None:
    told = in_bucket(started.options("storage", "s3"))
    folder = tmp_path / "send"
    folder.mkdir()
    sent = written(folder, 3) | written_long(folder)
    node = start(*told)
    assert storescu(node, folder).returncode == 0
    for _ in range(2):  # from the bucket, and then from what is kept here
        same(node, sent)
    assert list((node.data_dir / "s3-cache").rglob("*-*-*"))
    assert not (node.data_dir / "storage").exists()
    assert json.loads(node.get("/readyz")[1])["status"] == "ready"
    assert node.stop() == 0
    assert_sound(node, told, len(sent))
    same(start(*told, data_dir=node.data_dir), sent)


def assert_sound(node: Running, told: list[str], count: int) -> None:
    checked = dicomnode("fsck", "--json", "--digests", *sets(node.data_dir, *told, "storage.options.cache_bytes=0"))
    assert checked.stdout, checked.stderr
    found = json.loads(checked.stdout)
    assert [found[what] for what in ("objects", "missing", "damaged", "unknown")] == [count, [], [], []]


def written_long(folder: Path) -> dict[str, bytes]:
    """Write one object that is streamed, and put in parts."""
    ds = make(Rows=3072, Columns=3072, PixelData=hashlib.sha256(b"long").digest() * (3072 * 3072 // 16))
    file = part10(ds)
    (folder / "long.dcm").write_bytes(file)
    return {ds.SOPInstanceUID: data_set_of(file)}


@pytest.fixture
def server() -> Iterator[s3.Server]:
    with s3.running(own=True) as server:
        yield server


def test_while_the_bucket_is_away_senders_are_told_so(
    start: Callable[..., Running], server: s3.Server, tmp_path: Path
) -> None:
    options = s3.options("storage", server) | {"retry_s": 0.5}
    node = start(*in_bucket(options))
    kept = part10(make(InstanceNumber=1))
    assert stow(node, kept)[0] == 200
    server.stop()
    status, _ = stow(node, part10(make(InstanceNumber=2)))
    assert status in (409, 503)
    assert node.get("/readyz")[0] == 503
    (tmp_path / "x.dcm").write_bytes(part10(make(InstanceNumber=3)))
    assert storescu(node, tmp_path / "x.dcm").returncode != 0
    server.start()
    assert storescu(node, tmp_path / "x.dcm").returncode == 0
    assert len(instances(node)) == 2
    assert node.get("/readyz")[0] == 200
    assert node.stop() == 0
    assert_sound(node, in_bucket(options), 2)
