"""C-MOVE: programs of other people have the node send what it has to a third, or to themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow
from tests.interop.keepers import storescp
from tests.interop.objects import Sample, kept, sample, syntaxes
from tests.interop.orthanc import orthanc
from tests.interop.places import Place
from tests.interop.queriers import QUERIERS, files_in, gdcm_keys
from tests.interop.reading import elements, parted
from tests.interop.senders import DCMTK, Told, gdcm


@pytest.fixture
def study(node: Running, tmp_path: Path) -> list[Sample]:
    """Have the node hold a study of its own: one object in each transfer syntax that dcmtk knows."""
    ours = tmp_path / "ours"
    ours.mkdir()
    samples = [sample(syntax, ours) for syntax in syntaxes() if syntax in DCMTK]
    return _held(node, samples)


def _held(node: Running, samples: list[Sample]) -> list[Sample]:
    for one in samples:
        status, reply = stow(node, one.path.read_bytes())
        assert status == 200, reply
    return samples


def _keys(one: Sample) -> dict[str, str]:
    return {"StudyInstanceUID": one.study, "SeriesInstanceUID": one.series, "SOPInstanceUID": one.sop}


@pytest.mark.external("storescp")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=one.marks) for name, one in QUERIERS.items() if one.move is not None]
)
@pytest.mark.timeout(180)
def test_a_program_has_it_sent_to_a_third(
    name: str, study: list[Sample], place: Place, destinations: dict[str, Place], tmp_path: Path
) -> None:
    with storescp(tmp_path, place=destinations["STORESCP"]) as third:
        for one in study:
            told = _move(name)(place, "IMAGE", _keys(one), third.place)
            assert told.well, told.words
            assert third.has(one) == (one.transfer_syntax, one.data_set), one.transfer_syntax


def _move(name: str) -> Callable[[Place, str, dict[str, str], Place], Told]:
    move = QUERIERS[name].move
    assert move is not None
    return move


@pytest.mark.external("gdcmscu")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_gdcm_has_it_sent_to_itself(
    syntax: UID, node: Running, place: Place, destinations: dict[str, Place], tmp_path: Path
) -> None:
    """Its destination is a part of the same program."""
    own, got = destinations["GDCM"], tmp_path / "got"
    got.mkdir()
    (one,) = _held(node, [kept(part10(make(SpecificCharacterSet="ISO_IR 100"), syntax), tmp_path)])
    words = ["--aetitle", own.aet, "--port-scp", str(own.port), "-o", str(got), *gdcm_keys("IMAGE", _keys(one))]
    told = gdcm(place, "--move", *words)
    assert told.well, told.words
    ((sop, (as_syntax, data_set)),) = files_in(got).items()
    assert sop == one.sop
    assert elements(as_syntax, data_set) == elements(syntax, one.data_set)


@pytest.mark.external("Orthanc")
def test_orthanc_fetches_what_it_found(
    study: list[Sample], place: Place, destinations: dict[str, Place], tmp_path: Path
) -> None:
    with orthanc(tmp_path, destinations["ORTHANC"]) as running:
        running.knows("node", place)
        for one in (one for one in study if one.transfer_syntax != DeflatedExplicitVRLittleEndian):
            query = {"Level": "Instance", "Query": _keys(one)}
            asked = running.ask("/modalities/node/query", query)
            running.ask(f"/queries/{asked['ID']}/retrieve", {"TargetAet": running.place.aet, "Synchronous": True})
            (there,) = running.ask("/tools/find", query)
            assert elements(*parted(running.get(f"/instances/{there}/file"))) == elements(
                one.transfer_syntax, one.data_set
            )
