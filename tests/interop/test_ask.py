"""`dicomnode find`, `get`, `move`, `worklist`, `commit`: our commands ask archives and worklists of other people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode
from tests.interop.keepers import dcmqrscp
from tests.interop.objects import Sample, kept
from tests.interop.orthanc import orthanc
from tests.interop.places import HOST, Place, free_port, serving
from tests.interop.queriers import files_in
from tests.interop.reading import elements, kept_by, parted
from tests.interop.senders import run

_ORTHANC_WORKLISTS = Path("/usr/share/orthanc/plugins/libModalityWorklists.so")


class Archive(msgspec.Struct, frozen=True):
    """A program that holds `samples`, in an encoding of its own if it `rewrites`; it knows the node as DICOMNODE."""

    place: Place
    samples: list[Sample]
    rewrites: bool


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("dcmqrscp", marks=pytest.mark.external("dcmqrscp", "storescu")),
        pytest.param("orthanc", marks=pytest.mark.external("Orthanc")),
    ],
)
def archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, place: Place
) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "ours").mkdir()
    samples = _study(folder / "ours")
    with ExitStack() as stack:
        if request.param == "dcmqrscp":
            there = stack.enter_context(dcmqrscp(folder, peers=[place])).place
            done = run(["storescu", "-aec", there.aet, HOST, str(there.port), "+sd", str(folder / "ours")])
            assert done.returncode == 0, done.stderr
        else:
            running = stack.enter_context(orthanc(folder))
            running.knows("node", place)
            for one in samples:
                running.ask("/instances", one.path.read_bytes())
            there = running.place
        yield Archive(there, samples, rewrites=request.param == "orthanc")


def _study(folder: Path) -> list[Sample]:
    """Write a study of one series with three images, and one image of another study."""
    uids = {"StudyInstanceUID": "2.25.1001", "SeriesInstanceUID": "2.25.1001.1"}
    images = [make(**uids, PatientID="ASK1", PatientName="Ask^One", InstanceNumber=at) for at in (1, 2, 3)]
    images.append(make(PatientID="ASK2", PatientName="Ask^Two", StudyInstanceUID="2.25.1002"))
    return [kept(part10(image, ExplicitVRLittleEndian), folder) for image in images]


def _lines(*words: str) -> list[dict[str, Any]]:
    told = dicomnode(*words, "--json")
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


def _values(lines: list[dict[str, Any]], tag: str) -> list[Any]:
    return sorted(line[tag]["Value"][0] for line in lines)


def test_find_studies(archive: Archive) -> None:
    lines = _lines("find", archive.place.peer, "-k", "PatientID=ASK*", "-k", "StudyInstanceUID", "-k", "PatientName")
    assert _values(lines, "0020000D") == ["2.25.1001", "2.25.1002"]
    assert {line["00100010"]["Value"][0]["Alphabetic"] for line in lines} == {"Ask^One", "Ask^Two"}


def test_find_images(archive: Archive) -> None:
    keys = ["-k", "StudyInstanceUID=2.25.1001", "-k", "SeriesInstanceUID=2.25.1001.1", "-k", "SOPInstanceUID"]
    lines = _lines("find", archive.place.peer, "--level", "image", *keys)
    assert _values(lines, "00080018") == sorted(one.sop for one in archive.samples[:3])


def test_get_a_study(archive: Archive, tmp_path: Path) -> None:
    told = dicomnode("get", archive.place.peer, "--json", "--to", str(tmp_path), "-k", "StudyInstanceUID=2.25.1001")
    assert told.returncode == 0, told.stderr
    got = files_in(tmp_path)
    assert sorted(got) == sorted(one.sop for one in archive.samples[:3])
    for one in archive.samples[:3]:
        _is_the_same(got[one.sop], one, rewritten=archive.rewrites)


def test_move_a_study_into_the_node(archive: Archive, node: Running) -> None:
    told = dicomnode("move", archive.place.peer, "--to", "DICOMNODE", "-k", "StudyInstanceUID=2.25.1001")
    assert told.returncode == 0, told.stderr
    for one in archive.samples[:3]:
        _is_the_same(kept_by(node, one), one, rewritten=archive.rewrites)


def _is_the_same(got: tuple[str, bytes], one: Sample, *, rewritten: bool) -> None:
    if rewritten:
        assert elements(*got) == elements(*parted(one.path.read_bytes()))
    else:
        assert got == (one.transfer_syntax, one.data_set)


@pytest.mark.external("Orthanc")
def test_orthanc_commits_itself(tmp_path: Path) -> None:
    """It reports over an association of its own, to the address at which it knows us."""
    (tmp_path / "ours").mkdir()
    there, nowhere = _study(tmp_path / "ours")[::3]
    port = free_port()
    with orthanc(tmp_path) as running:
        running.knows("us", Place("US", port))
        running.ask("/instances", there.path.read_bytes())
        words = ["commit", running.place.peer, "--aet", "US", "--host", HOST, "--port", str(port), "--json"]
        told = dicomnode(*words, str(there.path))
        assert told.returncode == 0, told.stderr + told.stdout
        told = dicomnode(*words, str(there.path), str(nowhere.path))
        assert told.returncode == 1, told.stderr + told.stdout
        assert nowhere.sop in told.stdout


def _steps() -> list[Dataset]:
    steps = []
    for at, modality in enumerate(("CT", "MR"), 1):
        entry, step = Dataset(), Dataset()
        entry.SpecificCharacterSet = "ISO_IR 100"
        entry.AccessionNumber, entry.PatientName, entry.PatientID = f"A{at}", "Müller^Zoë", f"W{at}"
        entry.PatientBirthDate, entry.PatientSex, entry.StudyInstanceUID = "19700101", "F", f"2.25.200{at}"
        entry.RequestedProcedureID, entry.RequestedProcedureDescription = f"R{at}", "head"
        step.Modality, step.ScheduledStationAETitle = modality, f"{modality}1"
        step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260705", "103000"
        step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepDescription = "Cameron^Allison", "head"
        step.ScheduledProcedureStepID = f"S{at}"
        entry.ScheduledProcedureStepSequence = [step]
        steps.append(entry)
    return steps


def _write_steps(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "lockfile").touch()
    for at, entry in enumerate(_steps()):
        entry.file_meta = pydicom.dataset.FileMetaDataset()
        entry.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        entry.file_meta.MediaStorageSOPClassUID = UID("1.2.276.0.7230010.3.1.0.1")  # dcmtk's, for worklist files
        entry.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.300{at}")
        pydicom.dcmwrite(folder / f"step{at}.wl", entry, enforce_file_format=True)


@pytest.fixture(scope="module", params=["wlmscpfs", "orthanc"])
def worklist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "wlmscpfs":
            if shutil.which("wlmscpfs") is None:
                pytest.skip("not tested beside wlmscpfs: it is not installed (scripts/peers installs it)")
            place = Place("WORKLIST", free_port())
            _write_steps(folder / place.aet)
            command = ["wlmscpfs", "-dfp", str(folder), str(place.port)]
            stack.enter_context(serving(command, place.port, folder / "log"))
            yield place
        else:
            if shutil.which("Orthanc") is None or not _ORTHANC_WORKLISTS.exists():
                pytest.skip("not tested beside Orthanc's worklist: it is not installed (scripts/peers installs it)")
            _write_steps(folder / "worklist")
            table = {"Enable": True, "Database": str(folder / "worklist")}
            more: dict[str, Any] = {"Plugins": [str(_ORTHANC_WORKLISTS)], "Worklists": table}
            running = stack.enter_context(orthanc(folder, **more))
            running.knows("us", Place("DICOMNODE", free_port()))
            yield running.place


@pytest.mark.parametrize(("words", "patients"), [((), ["W1", "W2"]), (("--modality", "MR"), ["W2"])])
def test_worklist(words: tuple[str, ...], patients: list[str], worklist: Place) -> None:
    lines = _lines("worklist", worklist.peer, "--date", "20260701-20260731", *words)
    assert _values(lines, "00100020") == patients
    assert {line["00100010"]["Value"][0]["Alphabetic"] for line in lines} == {"Müller^Zoë"}
