from __future__ import annotations

from io import BytesIO
from typing import Any

import pydicom
import pytest

from dicomnode.dicom.identifier import write_identifier
from dicomnode.dicom.keys import attributes_of, name_of, tag_of
from dicomnode.dicom.part10 import write_file_meta
from dicomnode.errors import BadRequest

EXPLICIT = "1.2.840.10008.1.2.1"


def test_attributes_are_named_by_keyword_or_tag() -> None:
    assert tag_of("PatientID") == tag_of("0010,0020") == tag_of("(0010,0020)") == tag_of("00100020") == "00100020"
    assert tag_of("0029,1010") == "00291010"
    assert (name_of("00100020"), name_of("00291010")) == ("PatientID", "00291010")


@pytest.mark.parametrize("name", ["", "Patient ID", "patientid", "0010", "0010,002G", "PatientID;"])
def test_a_name_that_is_none_is_told(name: str) -> None:
    with pytest.raises(BadRequest):
        tag_of(name)


@pytest.mark.parametrize(
    ("key", "value", "element"),
    [
        ("PatientID", "P*", {"vr": "LO", "Value": ["P*"]}),
        ("PatientID", None, {"vr": "LO"}),
        ("PatientID", "", {"vr": "LO"}),
        ("StudyInstanceUID", "1.2\\1.3", {"vr": "UI", "Value": ["1.2", "1.3"]}),
        ("StudyInstanceUID", ["1.2", "1.3"], {"vr": "UI", "Value": ["1.2", "1.3"]}),
        ("PatientName", "A^B=C=D", {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": "C", "Phonetic": "D"}]}),
        ("PatientName", "=C", {"vr": "PN", "Value": [{"Ideographic": "C"}]}),
        ("Rows", "512", {"vr": "US", "Value": [512]}),
        ("Rows", 512, {"vr": "US", "Value": [512]}),
        ("ExaminedBodyThickness", "1.5", {"vr": "FL", "Value": [1.5]}),
        ("InstanceNumber", "7", {"vr": "IS", "Value": ["7"]}),
        ("FrameIncrementPointer", "FrameTime", {"vr": "AT", "Value": ["00181063"]}),
        ("PatientComments", "a\\b", {"vr": "LT", "Value": ["a\\b"]}),
        ("0029,1010", "x", {"vr": "LO", "Value": ["x"]}),
        ("RequestAttributesSequence", "", {"vr": "SQ"}),
        ("PatientID", {"vr": "LO", "Value": ["as it is"]}, {"vr": "LO", "Value": ["as it is"]}),
    ],
    ids=str,
)
def test_values_are_those_of_dicom_json(key: str, value: Any, element: dict[str, Any]) -> None:
    attributes = attributes_of({key: value})
    assert attributes == {tag_of(key): element}
    data = write_identifier(attributes, EXPLICIT)
    read = pydicom.dcmread(BytesIO(write_file_meta("1.2", "1.2.3", EXPLICIT) + data))
    assert [f"{int(element.tag):08X}" for element in read] == [tag_of(key)]


def test_dots_lead_through_sequences() -> None:
    step = "ScheduledProcedureStepSequence."
    assert attributes_of({step + "Modality": "CT", "PatientID": "", step + "0040,0001": ""}) == {
        "00400100": {"vr": "SQ", "Value": [{"00080060": {"vr": "CS", "Value": ["CT"]}, "00400001": {"vr": "AE"}}]},
        "00100020": {"vr": "LO"},
    }
    deep = attributes_of({"RequestAttributesSequence.RequestedProcedureCodeSequence.CodeValue": "1"})
    assert deep["00400275"]["Value"][0]["00321064"]["Value"][0]["00080100"]["Value"] == ["1"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PatientID.Modality", "CT"),
        ("RequestAttributesSequence", "CT"),
        ("Rows", "many"),
        ("ExaminedBodyThickness", "quite thick"),
    ],
)
def test_what_makes_no_sense_is_told_without_its_value(key: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        attributes_of({key: value})
    assert value not in str(caught.value)
