"""C-FIND of the node: programs of other people find what it has, and nothing else, with its names spelt right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow
from tests.interop.orthanc import Orthanc, orthanc
from tests.interop.places import Place
from tests.interop.queriers import QUERIERS, UNIQUE, Answers

_UID = "2.25.4711"


def _image(study: int, series: int, image: int, **more: str) -> Dataset:
    uids = {
        "StudyInstanceUID": f"{_UID}.{study}",
        "SeriesInstanceUID": f"{_UID}.{study}.{series}",
        "SOPInstanceUID": f"{_UID}.{study}.{series}.{image}",
    }
    return make(**uids, InstanceNumber=image, SeriesNumber=series, **more)


IMAGES = [
    *(_image(1, 1, at, PatientID="FIND1", PatientName="Müller^Jürgen", StudyDate="20260301") for at in (1, 2, 3)),
    _image(1, 2, 1, PatientID="FIND1", PatientName="Müller^Jürgen", StudyDate="20260301", Modality="MR"),
    _image(2, 1, 1, PatientID="FIND1", PatientName="Müller^Jürgen", StudyDate="20260415", AccessionNumber="ACC2"),
    _image(3, 1, 1, PatientID="FIND2", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", StudyDate="20250101"),
]
_STUDY_1 = {"StudyInstanceUID": f"{_UID}.1"}
_SERIES_1 = _STUDY_1 | {"SeriesInstanceUID": f"{_UID}.1.1"}

# Level, keys, and the ends of the UIDs of what is to be found.
QUESTIONS = {
    "a patient": ("STUDY", {"PatientID": "FIND1"}, ["1", "2"]),
    "a wildcard": ("STUDY", {"PatientID": "FIND*"}, ["1", "2", "3"]),
    "a range of dates": ("STUDY", {"PatientID": "FIND*", "StudyDate": "20260101-20260331"}, ["1"]),
    "up to a date": ("STUDY", {"PatientID": "FIND*", "StudyDate": "-20260301"}, ["1", "3"]),
    "an accession number": ("STUDY", {"AccessionNumber": "ACC2"}, ["2"]),
    "a modality": ("STUDY", {"PatientID": "FIND*", "ModalitiesInStudy": "MR"}, ["1"]),
    "the series of a study": ("SERIES", _STUDY_1, ["1.1", "1.2"]),
    "the series of a modality": ("SERIES", _STUDY_1 | {"Modality": "MR"}, ["1.2"]),
    "the images of a series": ("IMAGE", _SERIES_1, ["1.1.1", "1.1.2", "1.1.3"]),
    "nothing": ("STUDY", {"PatientID": "NOBODY"}, []),
}


@pytest.fixture(scope="module")
def stocked(node: Running) -> Running:
    status, reply = stow(node, *map(part10, IMAGES))
    assert status == 200, reply
    return node


finders = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=one.marks) for name, one in QUERIERS.items() if one.find is not None]
)


@finders
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_there_is_found(name: str, question: str, stocked: Running, place: Place, tmp_path: Path) -> None:
    level, keys, ends = QUESTIONS[question]
    found = _find(name)(place, level, {UNIQUE[level]: ""} | keys, tmp_path)
    if name == "gdcm":  # it tells how many, and no more
        assert len(found) == len(ends)
    else:
        assert sorted(one[UNIQUE[level]] for one in found) == [f"{_UID}.{end}" for end in ends]


@finders
def test_a_list_of_uids_finds_each(name: str, stocked: Running, place: Place, tmp_path: Path) -> None:
    keys = {"StudyInstanceUID": f"{_UID}.1\\{_UID}.3"}
    found = _find(name)(place, "STUDY", keys, tmp_path)
    assert len(found) == 2


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=QUERIERS[name].marks) for name in ("dcmtk", "pynetdicom")],
)
def test_patients(name: str, stocked: Running, place: Place, tmp_path: Path) -> None:
    found = _find(name)(place, "PATIENT", {"PatientID": "FIND*", "NumberOfPatientRelatedStudies": ""}, tmp_path)
    counts = {one["PatientID"]: int(one["NumberOfPatientRelatedStudies"]) for one in found}
    assert counts == {"FIND1": 2, "FIND2": 1}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=QUERIERS[name].marks) for name in ("dcmtk", "pynetdicom", "dcmjs")]
)
def test_names_are_spelt_right(name: str, stocked: Running, place: Place, tmp_path: Path) -> None:
    """What the reply says of its character set and what it is written in agree."""
    found = _find(name)(place, "STUDY", {"PatientID": "FIND*", "PatientName": "", "StudyInstanceUID": ""}, tmp_path)
    names = {one["StudyInstanceUID"]: one["PatientName"] for one in found}
    assert names[f"{_UID}.1"] == "Müller^Jürgen"
    assert names[f"{_UID}.3"] == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def _find(name: str) -> Callable[[Place, str, dict[str, str], Path], Answers]:
    find = QUERIERS[name].find
    assert find is not None
    return find


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory, stocked: Running, place: Place, destinations: dict[str, Place]
) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc"), destinations["ORTHANC"]) as running:
        running.knows("node", place)
        yield running


@pytest.mark.external("Orthanc")
@pytest.mark.parametrize("question", QUESTIONS)
def test_orthanc_finds_what_is_there(question: str, archive: Orthanc) -> None:
    level, keys, ends = QUESTIONS[question]
    query = {"Level": level.title() if level != "IMAGE" else "Instance", "Query": {UNIQUE[level]: ""} | keys}
    asked = archive.ask("/modalities/node/query", query)
    answers = archive.json(f"/queries/{asked['ID']}/answers?expand&simplify")
    assert sorted(one[UNIQUE[level]] for one in answers) == [f"{_UID}.{end}" for end in ends]
