"""Row 12 (CVE-2019-11687): files that are DICOM and a program at once. What is stored has a preamble of our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import retrieved, stow

PREAMBLES = {
    "PE": b"MZ\x90\0\3\0\0\0" + b"\x80".rjust(56, b"\0") + b"This program cannot be run",
    "ELF": b"\x7fELF\2\1\1\0" + bytes(8) + b"\2\0\x3e\0",
    "Mach-O": b"\xcf\xfa\xed\xfe\7\0\0\1",
    "TIFF": b"II*\0\x10\0\0\0",
    "script": b"#!/bin/sh\ntouch /tmp/dicomnode-ran\nexit\n",
    "HTML": b"<html><script>alert(1)</script>",
    "PDF": b"%PDF-1.4\n",
    "ZIP": b"PK\3\4",
}


@pytest.mark.parametrize("what", PREAMBLES)
def test_stow_keeps_no_strangers_preamble(what: str, shared: Running) -> None:
    ds = make()
    file = part10(ds)
    hostile = PREAMBLES[what].ljust(128, b"\0") + file[128:]
    assert stow(shared, hostile)[0] == 200
    served = retrieved(shared, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert served[:132] == bytes(128) + b"DICM"
    assert data_set_of(served) == data_set_of(file)


def test_import_keeps_none(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, preamble in enumerate(PREAMBLES.values()):
        # A ZIP is told by its first bytes, and this one is none.
        (folder / f"{number}.dcm").write_bytes(preamble.ljust(128, b"\0") + part10(make())[128:])
    told = dicomnode("import", str(folder), "--json", *sets(tmp_path / "data"))
    summary = json.loads(told.stdout)
    assert summary["new"] >= len(PREAMBLES) - 1, told.stderr
    kept = list((tmp_path / "data" / "storage").rglob("*.dcm"))
    assert len(kept) == summary["new"]
    assert all(path.read_bytes()[:132] == bytes(128) + b"DICM" for path in kept)
    assert all(path.stat().st_mode & 0o111 == 0 for path in kept), "nothing that is kept may be run"


def test_what_is_served_is_not_to_be_guessed_at(shared: Running) -> None:
    ds = make()
    assert stow(shared, part10(ds))[0] == 200
    import urllib.request

    path = f"/dicomweb/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    request = urllib.request.Request(shared.url + path, headers={"Accept": "application/dicom"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Content-Type"].startswith("application/dicom")
