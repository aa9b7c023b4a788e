"""C-STORE to the node: what a program sends, in each transfer syntax that it can send, is served byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.corpus import corpus_files, wheel_files
from tests.flows.running import Running
from tests.interop.objects import named, sample, syntaxes
from tests.interop.orthanc import Orthanc, orthanc
from tests.interop.places import Place
from tests.interop.reading import elements, kept_by
from tests.interop.senders import DCMTK, SENDERS, needs_dcmjs
from tests.interop.witness import watching

DEFLATED = str(DeflatedExplicitVRLittleEndian)
_CASES = [
    pytest.param(name, syntax, marks=one.marks, id=f"{name}-{named(syntax)}")
    for name, one in SENDERS.items()
    for syntax in syntaxes()
    if one.store is not None and syntax not in one.cannot
]


@pytest.mark.parametrize(("name", "syntax"), _CASES)
def test_what_a_program_sends_is_served(name: str, syntax: str, node: Running, place: Place, tmp_path: Path) -> None:
    store = SENDERS[name].store
    assert store is not None
    object_ = sample(syntax, tmp_path)
    told = store(place, object_)
    assert told.well, told.words
    kept = kept_by(node, object_)
    if kept == (syntax, object_.data_set):
        return
    # The program writes its data sets anew: then the node has what another receiver has of it.
    with watching(kept[0]) as witness:
        told = store(witness.place, object_)
        assert told.well, told.words
        assert kept == witness.seen[object_.sop]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, place: Place) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.knows("node", place)
        yield running


@pytest.mark.external("Orthanc")
@pytest.mark.parametrize(
    "syntax", [pytest.param(syntax, id=named(syntax)) for syntax in syntaxes() if syntax in DCMTK - {DEFLATED}]
)
def test_what_orthanc_sends_is_served(syntax: str, archive: Orthanc, node: Running, tmp_path: Path) -> None:
    """Orthanc encodes data sets in its own way, and inflates what it keeps as deflated."""
    object_ = sample(syntax, tmp_path)
    added = archive.ask("/instances", object_.path.read_bytes())
    told = archive.ask("/modalities/node/store", [added["ID"]])
    assert (told["InstancesCount"], told["FailedInstancesCount"]) == (1, 0)
    as_syntax, data_set = kept_by(node, object_)
    assert as_syntax == syntax
    assert elements(syntax, data_set) == elements(syntax, object_.data_set)


@pytest.mark.external("Orthanc")
def test_orthanc_sends_a_whole_study(archive: Orthanc, node: Running) -> None:
    """Over one association that it keeps open for a while afterwards."""
    files = corpus_files("mr-study/T1") or wheel_files()[:1]
    ids = [archive.ask("/instances", path.read_bytes())["ID"] for path in files]
    told = archive.ask("/modalities/node/store", ids)
    assert (told["InstancesCount"], told["FailedInstancesCount"]) == (len(files), 0)
    sent = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    rows = node.json(f"/dicomweb/studies/{sent[0].StudyInstanceUID}/instances")
    assert {str(ds.SOPInstanceUID) for ds in sent} <= {row["00080018"]["Value"][0] for row in rows}


@pytest.mark.external("node")
@needs_dcmjs
def test_what_is_called_deflated_and_is_not_is_refused(node: Running, place: Place, tmp_path: Path) -> None:
    """dcmjs-dimse 0.3.3 sends such objects as they are; to keep them would be to serve what nobody can read."""
    object_ = sample(DEFLATED, tmp_path)
    store = SENDERS["dcmjs"].store
    assert store is not None
    told = store(place, object_)
    assert '{"status":49152}' in told.words  # 0xC000, cannot understand
    assert not node.json(f"/dicomweb/instances?SOPInstanceUID={object_.sop}")
