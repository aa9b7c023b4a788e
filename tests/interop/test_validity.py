"""dciodvfy, an independent validator: an object leaves the node no worse than it came."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.corpus import corpus_files, identified, wheel_files
from tests.flows.running import Running, dicomnode, sets, start_node
from tests.flows.send import retrieved
from tests.interop.places import HOST
from tests.interop.queriers import files_in
from tests.interop.senders import run

# The file meta information is ours, and says again what the data set says of itself, even where that is no UID.
_SAID_AGAIN = "(0x0002,0x0003)"


def errors_in(path: Path) -> Counter[str]:
    """Return what dciodvfy has to say against a file."""
    done = run(["dciodvfy", str(path)])
    lines = (done.stdout + done.stderr).splitlines()
    return Counter(line for line in lines if line.startswith("Error") and _SAID_AGAIN not in line)


def _unlike(paths: list[Path]) -> dict[str, tuple[Path, str, str]]:
    """Return by SOP Instance UID the first file of each with its study and series."""
    found: dict[str, tuple[Path, str, str]] = {}
    for path in paths:
        ds = identified(path)
        if ds is not None and "TransferSyntaxUID" in ds.file_meta and path.stat().st_size < 5_000_000:
            found.setdefault(str(ds.SOPInstanceUID), (path, str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)))
    return found


# One of many alike says enough of the two series of one scanner.
_CAME = _unlike([path for path in corpus_files() if path.parent.parent.name != "mr-study"] or wheel_files())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, set[str]]]:
    """A node that holds them; and the SOP Instance UIDs of those it took."""
    folder = tmp_path_factory.mktemp("validity")
    told = dicomnode("import", "--json", *(str(path) for path, _, _ in _CAME.values()), *sets(folder / "data"))
    summary = json.loads(told.stdout)
    refused = {refusal["file"] for refusal in summary["refusals"]}
    node = start_node(folder / "data", folder / "log", *sets(folder / "data"))
    yield node, {sop for sop, (path, _, _) in _CAME.items() if str(path) not in refused}
    node.kill()


@pytest.mark.external("dciodvfy")
@pytest.mark.timeout(240)
def test_what_is_served_over_the_web(filled: tuple[Running, set[str]], tmp_path: Path) -> None:
    node, taken = filled
    assert len(taken) > 0.9 * len(_CAME)
    served = tmp_path / "served.dcm"
    worse = {}
    for sop in sorted(taken):
        path, study, series = _CAME[sop]
        served.write_bytes(retrieved(node, study, series, sop))
        if new := errors_in(served) - errors_in(path):
            worse[path.name] = new
    assert not worse


def _inflated(path: Path, to: Path) -> Path:
    """Return `path`, or where it is deflated what dcmtk makes of it: dciodvfy does not look into those."""
    if pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return path
    assert run(["dcmconv", "+te", str(path), str(to)]).returncode == 0
    return to


@pytest.mark.external("dciodvfy", "getscu")
@pytest.mark.timeout(240)
def test_what_is_fetched_by_c_get(filled: tuple[Running, set[str]], tmp_path: Path) -> None:
    """As it was sent or, where the peer takes only what is not compressed, decoded."""
    node, taken = filled
    got = tmp_path / "got"
    got.mkdir()
    worse, studies = {}, {_CAME[sop][1] for sop in taken}
    for study in sorted(studies):
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
        run(["getscu", "-S", "+B", "-od", str(got), "-aec", "DICOMNODE", *keys, HOST, str(node.scp[1])])
    for path in sorted(got.iterdir()):
        ds = identified(path)
        assert ds is not None, path
        came = _CAME[str(ds.SOPInstanceUID)][0]
        if new := errors_in(path) - errors_in(_inflated(came, tmp_path / "inflated")):
            worse[came.name] = new
    assert not worse
    assert len(files_in(got)) > 0.8 * len(taken)  # dcmtk 3.6.7 does not know every SOP class
