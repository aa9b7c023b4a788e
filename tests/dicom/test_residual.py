from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom.residual import parse_path, parse_residual
from dicomnode.errors import BadRequest

ATTRIBUTES: dict[str, Any] = {
    "00080070": {"vr": "LO", "Value": ["ACME Ltd"]},
    "00080008": {"vr": "CS", "Value": ["DERIVED", "SECONDARY"]},
    "00180050": {"vr": "DS", "Value": [2.5]},
    "0008002A": {"vr": "DT", "Value": ["20260102101112.5+0100"]},
    "00280010": {"vr": "US", "Value": [512]},
    "00101001": {"vr": "PN", "Value": [{"Alphabetic": "Roe^Joe"}]},
    "00101000": {"vr": "LO"},
    "00400275": {
        "vr": "SQ",
        "Value": [
            {"00401001": {"vr": "SH", "Value": ["RP1"]}},
            {"00400008": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["X5"]}}]}},
        ],
    },
}


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("Manufacturer", "acme*", True),
        ("Manufacturer", "acme", False),
        ("00080070", "ACME  ltd", True),
        ("ImageType", "SECONDARY", True),
        ("ImageType", "ORIGINAL\\DERIVED", True),
        ("ImageType", "ORIGINAL", False),
        ("SliceThickness", "2.50", True),
        ("SliceThickness", "3", False),
        ("AcquisitionDateTime", "20260102-20260103", True),
        ("AcquisitionDateTime", "20260102091112.5", True),
        ("AcquisitionDateTime", "20260102091112.5+0000", True),
        ("AcquisitionDateTime", "20260102101112.5+0100-", True),
        ("AcquisitionDateTime", "-2025", False),
        ("AcquisitionDateTime", "202601-0500-", True),
        ("AcquisitionDateTime", "202602-0500-", False),
        ("Rows", "0512", True),
        ("Rows", "511", False),
        ("OtherPatientNames", "roe^*", True),
        ("OtherPatientIDs", "x", False),
        ("OtherPatientIDs", '""', True),
        ("Columns", "512", False),
        ("RequestAttributesSequence.RequestedProcedureID", "RP1", True),
        ("00400275.00401001", "RP2", False),
        ("RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue", "X5", True),
        ("RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue", "X?", True),
    ],
)
def test_matching_on_dicom_json(name: str, text: str, fits: bool) -> None:
    named = parse_path(name)
    assert named is not None
    residual = parse_residual(named, text)
    assert residual is not None
    assert residual.accepts(ATTRIBUTES) is fits


@pytest.mark.parametrize("text", ["", " "])
def test_no_value_is_universal(text: str) -> None:
    for name in ("Manufacturer", "RequestAttributesSequence", "AcquisitionDateTime", "SliceThickness"):
        named = parse_path(name)
        assert named is not None
        assert parse_residual(named, text) is None


@pytest.mark.parametrize(
    "name",
    ["", "NoSuchAttribute", "PatientName.CodeValue", "0040", "0040027G", "Modality.", ".".join(["00400275"] * 9), "é"],
)
def test_what_is_no_attribute(name: str) -> None:
    assert parse_path(name) is None


def test_a_private_tag_is_an_attribute() -> None:
    named = parse_path("00091001")
    assert named is not None
    assert (named.path, named.vr) == (("00091001",), "UN")


@pytest.mark.parametrize(
    ("name", "text"),
    [("RequestAttributesSequence", "secret"), ("AcquisitionDateTime", "secret"), ("AcquisitionDateTime", "-")],
)
def test_what_cannot_be_asked(name: str, text: str) -> None:
    named = parse_path(name)
    assert named is not None
    with pytest.raises(BadRequest) as error:
        parse_residual(named, text)
    assert "secret" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ATTRIBUTES, "Value", "vr"]), inner),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["Manufacturer", "00400275.00401001", "SliceThickness", "OtherPatientNames"]))
def test_odd_json_never_breaks_matching(value: Any, name: str) -> None:
    named = parse_path(name)
    assert named is not None
    residual = parse_residual(named, "x1")
    assert residual is not None
    assert residual.accepts({"00080070": value, "00400275": {"Value": value}}) in (True, False)
