from __future__ import annotations

import json

import pytest

from dicomnode.model.attributes import Level
from dicomnode.model.entry import Policy
from dicomnode.model.merge import COLUMNS, Facts, facts, merged, patient_identity
from tests.contracts.entries import CT, entry


def told(text: str, **columns: str) -> Facts:
    return Facts(text, columns)


def test_facts_of_each_level() -> None:
    one = entry("1.1", "1.2", "1.3", PatientName="doe", StudyDate="20240101", SeriesNumber="3", InstanceNumber="4")
    for level in Level:
        found = facts(one, level)
        assert tuple(found.columns) == COLUMNS[level]
    assert facts(one, Level.PATIENT).columns["PatientName"] == "doe"
    assert facts(one, Level.STUDY).columns["StudyInstanceUID"] == "1.1"
    assert facts(one, Level.SERIES).columns["SeriesInstanceUID"] == "1.2"
    assert facts(one, Level.INSTANCE).columns["SOPInstanceUID"] == "1.3"
    assert facts(one, Level.INSTANCE).columns["SOPClassUID"] == CT


def test_keep_first_fills_in() -> None:
    old = told('{"00100010":{"vr":"PN"},"00100020":{"vr":"LO","Value":["a"]}}', PatientName="", PatientID="a")
    new = told(
        '{"00100010":{"vr":"PN","Value":["x"]},"00100020":{"vr":"LO","Value":["b"]},"00100040":{"vr":"CS"}}',
        PatientName="x",
        PatientID="b",
    )
    both = merged(old, new, Policy.KEEP_FIRST)
    assert dict(both.columns) == {"PatientName": "x", "PatientID": "a"}
    assert json.loads(both.attributes) == {
        "00100010": {"vr": "PN", "Value": ["x"]},
        "00100020": {"vr": "LO", "Value": ["a"]},
        "00100040": {"vr": "CS"},
    }
    assert merged(both, new, Policy.KEEP_FIRST) is both
    assert merged(both, old, Policy.KEEP_FIRST) is both


def test_replace_takes_the_newest() -> None:
    old, new = told('{"00100010":{"vr":"PN","Value":["x"]}}', PatientName="x"), told("{}", PatientName="")
    assert merged(old, new, Policy.REPLACE) is new
    assert merged(old, told(old.attributes, **old.columns), Policy.REPLACE) is old


@pytest.mark.parametrize("issuer", ["", "a"])
def test_identity(issuer: str) -> None:
    one = entry("1.1", PatientID="p", IssuerOfPatientID=issuer)
    assert patient_identity(one) == patient_identity(entry("1.2", PatientID="p", IssuerOfPatientID=issuer))
    assert patient_identity(one) != patient_identity(entry("1.1", PatientID="p", IssuerOfPatientID="b"))
    assert patient_identity(entry("1.1")) == patient_identity(entry("1.1"))
    assert patient_identity(entry("1.1")) != patient_identity(entry("1.2"))
