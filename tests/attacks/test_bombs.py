"""Row 9: deflated objects of a megabyte that are gigabytes, by every door, and what is asked of them afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks import bombs
from tests.attacks.peer import DEFLATED, Peer
from tests.attacks.test_paths import HEAD
from tests.attacks.watch import survives
from tests.corpus import make
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, stow

GIB = 1024  # in MiB
FILE = HEAD.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
# The transfer syntax in the meta information is longer by two bytes, its length and the group's say so.
FILE = FILE.replace(b"\x10\0UI\x14\0", b"\x10\0UI\x16\0")


def test_c_store(start: Callable[..., Running]) -> None:
    node = start()
    kept = make()
    with survives(node, 96), Peer(node) as peer:
        peer.associate()
        # Pixels are not inflated at the door: as long as the head says who it is, it is kept as it came.
        assert peer.store(bombs.pixels(GIB, kept), DEFLATED) == 0
        assert peer.store(bombs.header(GIB), DEFLATED) == 0xC000
        for _ in range(10):
            assert peer.store(bombs.header(60), DEFLATED) == 0xC000
        peer.release()
    assert kept.SOPInstanceUID in {row["00080018"]["Value"][0] for row in instances(node)}
    path = f"/dicomweb/studies/{kept.StudyInstanceUID}/series/{kept.SeriesInstanceUID}/instances/{kept.SOPInstanceUID}"
    # Whoever asks for what would have to be inflated is refused, after 64 MiB of it.
    with survives(node, 448):
        for what, accept in (("/metadata", "application/dicom+json"), ("/frames/1", "application/octet-stream")):
            status, body = node.get(path + what, accept)
            assert status in (200, 400, 406, 409, 500), (what, status)
            assert len(body) < 100_000
            assert b"Traceback" not in body
        assert node.get(path, "application/dicom")[0] == 200, "as it is stored"


@pytest.mark.timeout(120)
def test_ten_gibibytes_are_streamed_as_they_are(start: Callable[..., Running]) -> None:
    node = start()
    with survives(node, 96), Peer(node) as peer:
        peer.associate()
        assert peer.store(bombs.pixels(10 * GIB), DEFLATED) == 0
        assert peer.store(bombs.header(10 * GIB), DEFLATED) == 0xC000
        peer.release()


def test_stow(start: Callable[..., Running]) -> None:
    node = start()
    with survives(node, 96):
        assert stow(node, FILE + bombs.header(GIB))[0] == 409
        assert stow(node, FILE + bombs.pixels(GIB))[0] == 200


def test_import(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(FILE + bombs.header(GIB))
    (folder / "2.dcm").write_bytes(FILE + bombs.pixels(GIB))
    told = dicomnode("import", str(folder), "--json", *sets(tmp_path / "data"))
    summary = json.loads(told.stdout)
    assert (summary["new"], summary["refused"]) == (1, 1), told.stderr
