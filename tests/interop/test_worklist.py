"""Modality worklist, performed steps and storage commitment: what programs of other people ask as modalities do."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow
from tests.interop.places import HOST, Place
from tests.interop.senders import dcmjs, needs_dcmjs, pynetdicom, run

_MPPS = "1.2.840.10008.3.1.2.3.3"
_COMMITMENT_DONE, _COMMITMENT_WITH_FAILURES = 1, 2
_NO_SUCH_OBJECT = 0x0112
_DOCS = Path(__file__).parent.parent.parent / "docs"


def _example() -> dict[str, Any]:
    """Return the entry of docs/worklist.md."""
    found = re.search(r"```json\n(.*?)```", (_DOCS / "worklist.md").read_text(), re.DOTALL)
    assert found is not None
    entry: dict[str, Any] = json.loads(found[1])
    return entry


def _put(node: Running, name: str, entry: dict[str, Any]) -> None:
    body = json.dumps(entry).encode()
    headers = {"Content-Type": "application/dicom+json"}
    request = urllib.request.Request(f"{node.url}/api/v1/worklist/{name}", body, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status in (200, 201)


@pytest.fixture(scope="module")
def scheduled(node: Running) -> dict[str, Any]:
    """Have two steps scheduled, one for CT and one for MR; return the one for CT."""
    entry = _example()
    _put(node, "ct", entry)
    other = json.loads(json.dumps(entry))
    other["00100020"]["Value"] = ["P4712"]
    other["00400100"]["Value"][0]["00080060"]["Value"] = ["MR"]
    _put(node, "mr", other)
    return entry


_STEP = "ScheduledProcedureStepSequence[0]"


@pytest.mark.external("findscu")
@pytest.mark.parametrize(("modality", "patients"), [("CT", ["P4711"]), ("MR", ["P4712"]), ("", ["P4711", "P4712"])])
def test_findscu_asks_what_to_do(
    modality: str, patients: list[str], scheduled: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    keys = [
        f"{_STEP}.Modality={modality}",
        f"{_STEP}.ScheduledProcedureStepStartDate=20260701-20260731",
        "PatientName=",
    ]
    words = [word for key in (*keys, "PatientID=") for word in ("-k", key)]
    done = run(["findscu", "-v", "-W", "-X", "-od", str(tmp_path), "-aec", place.aet, *words, HOST, str(place.port)])
    assert "Received Final Find Response (Success)" in done.stdout + done.stderr
    found = [pydicom.dcmread(path, force=True) for path in tmp_path.glob("rsp*.dcm")]
    assert sorted(str(ds.PatientID) for ds in found) == patients
    assert {str(ds.PatientName) for ds in found} == {"Müller^Zoë"}
    dates = {str(ds.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate) for ds in found}
    assert dates == {"20260705"}


def test_pynetdicom_asks_what_to_do(scheduled: dict[str, Any], place: Place, tmp_path: Path) -> None:
    words = ["-W", "-w", "-k", f"{_STEP}.Modality=CT", "-k", "PatientName=m*", "-k", "PatientID="]
    told = pynetdicom("findscu", place, *words, cwd=tmp_path)
    assert told.well, told.words
    (one,) = [pydicom.dcmread(path, force=True) for path in tmp_path.glob("rsp*.dcm")]
    assert (str(one.PatientID), str(one.PatientName)) == ("P4711", "Müller^Zoë")


@pytest.mark.external("node")
@needs_dcmjs
def test_dcmjs_asks_what_to_do(scheduled: dict[str, Any], place: Place) -> None:
    """It asks for 40 attributes, and for an empty number with a zero."""
    keys = {"PatientName": "", "ScheduledProcedureStepSequence": [{"Modality": "CT", "ScheduledStationAETitle": ""}]}
    (match, *rest), words = dcmjs(place, {"kind": "worklist", "keys": keys})
    assert rest == [{"status": 0}, {"ended": "released"}], words
    assert match["elements"]["PatientID"] == "P4711"
    (step,) = match["elements"]["ScheduledProcedureStepSequence"]
    assert (step["Modality"], step["ScheduledStationAETitle"]) == ("CT", "CT1")


@pytest.mark.external("mwlQuery")
def test_ctn_asks_what_to_do(scheduled: dict[str, Any], place: Place, tmp_path: Path) -> None:
    asked, step = Dataset(), Dataset()
    asked.PatientName, asked.PatientID, step.Modality = "", "", "CT"
    asked.ScheduledProcedureStepSequence = [step]
    query = tmp_path / "query"  # CTN reads data sets without a head
    pydicom.dcmwrite(query, asked, implicit_vr=True, little_endian=True)
    done = run(["mwlQuery", "-a", "CTN", "-c", place.aet, "-f", str(query), HOST, str(place.port)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^Status: +([0-9a-f]{4})", done.stdout, re.MULTILINE) == ["ff00", "0000"]
    assert "P4711" in done.stdout


@pytest.mark.external("node")
@needs_dcmjs
def test_dcmjs_tells_what_it_does_and_has_done(scheduled: dict[str, Any], node: Running, place: Place) -> None:
    uid = generate_uid()
    study, step_id = scheduled["0020000D"]["Value"][0], scheduled["00400100"]["Value"][0]["00400009"]["Value"][0]
    begun = {
        "ScheduledStepAttributesSequence": [{"StudyInstanceUID": study, "ScheduledProcedureStepID": step_id}],
        "PatientName": "Müller^Zoë",
        "PatientID": "P4711",
        "PerformedProcedureStepID": "PPS1",
        "PerformedStationAETitle": "CT1",
        "PerformedProcedureStepStartDate": "20260705",
        "PerformedProcedureStepStartTime": "103100",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "Modality": "CT",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    done = {
        "PerformedProcedureStepStatus": "COMPLETED",
        "PerformedProcedureStepEndDate": "20260705",
        "PerformedProcedureStepEndTime": "104500",
        "PerformedSeriesSequence": [{"SeriesInstanceUID": generate_uid(), "ProtocolName": "Head"}],
    }
    created, words = dcmjs(place, {"kind": "create", "sopClass": _MPPS, "uid": uid, "elements": begun})
    assert (created[0]["status"], created[-1]) == (0, {"ended": "released"}), words
    again, words = dcmjs(place, {"kind": "create", "sopClass": _MPPS, "uid": uid, "elements": begun})
    assert again[0]["status"] == 0x0111, words  # duplicate SOP instance
    changed, words = dcmjs(place, {"kind": "set", "sopClass": _MPPS, "uid": uid, "elements": done})
    assert changed[0]["status"] == 0, words
    too_late, words = dcmjs(place, {"kind": "set", "sopClass": _MPPS, "uid": uid, "elements": done})
    assert too_late[0]["status"] == 0x0110, words
    (kept,) = [one for one in node.json("/api/v1/performed") if uid in json.dumps(one)]
    assert "COMPLETED" in json.dumps(kept)


@pytest.mark.external("node")
@needs_dcmjs
@pytest.mark.parametrize("missing", [False, True])
def test_dcmjs_asks_whether_it_is_safe(missing: bool, node: Running, place: Place) -> None:
    """The report comes over the association on which it was asked for, as long as that stands."""
    image = make()
    status, _ = stow(node, part10(image))
    assert status == 200
    there = [str(image.SOPClassUID), str(image.SOPInstanceUID)]
    nowhere = [str(image.SOPClassUID), str(generate_uid())]
    references = [there, nowhere] if missing else [there]
    answers, words = dcmjs(place, {"kind": "commit", "references": references}, linger=40_000)
    assert answers[0]["status"] == 0, words
    (report,) = [one for one in answers if "report" in one]
    assert report["report"] == (_COMMITMENT_WITH_FAILURES if missing else _COMMITMENT_DONE)
    (kept,) = report["elements"]["ReferencedSOPSequence"]
    assert kept["ReferencedSOPInstanceUID"] == there[1]
    if missing:
        (failed,) = report["elements"]["FailedSOPSequence"]
        assert (failed["ReferencedSOPInstanceUID"], failed["FailureReason"]) == (nowhere[1], _NO_SUCH_OBJECT)
