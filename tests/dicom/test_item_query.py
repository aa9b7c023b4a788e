from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomnode.dicom.item_query import answer, identifier_keys, parse_item_query
from dicomnode.errors import BadRequest
from tests.steps import STUDY, as_json, scheduled

STEP = "ScheduledProcedureStepSequence"


def fits(*keys: tuple[str, str], fuzzy: bool = False, **changes: Any) -> bool:
    return parse_item_query(keys, fuzzy=fuzzy).accepts(as_json(scheduled(**changes)))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PatientName", "Doe^Jane", True),
        ("PatientName", "DOE^J*", True),
        ("PatientName", "Doe", False),
        ("PatientID", "P1", True),
        ("PatientID", "p1", False),
        ("PatientID", "P?", True),
        ("AccessionNumber", "A1", True),
        ("AccessionNumber", "A2", False),
        ("StudyInstanceUID", f"9.9\\{STUDY}", True),
        ("StudyInstanceUID", "9.9", False),
        (f"{STEP}.Modality", "CT", True),
        (f"{STEP}.Modality", "MR\\CT", True),
        (f"{STEP}.Modality", "MR", False),
        (f"{STEP}.ScheduledStationAETitle", "CT1", True),
        (f"{STEP}.ScheduledStationAETitle", "CT2", False),
        ("00400100.00400001", "CT*", True),
        (f"{STEP}.ScheduledPerformingPhysicianName", "house*", True),
        (f"{STEP}.ScheduledPerformingPhysicianName", "Wilson*", False),
        (f"{STEP}.ScheduledProcedureStepStartDate", "20260705", True),
        (f"{STEP}.ScheduledProcedureStepStartDate", "20260704-20260706", True),
        (f"{STEP}.ScheduledProcedureStepStartDate", "20260706-", False),
        (f"{STEP}.ScheduledProcedureStepStartDate", "-20260705", True),
        (f"{STEP}.ScheduledProcedureStepStartTime", "1030", True),
        (f"{STEP}.ScheduledProcedureStepStartTime", "1000-1100", True),
        (f"{STEP}.ScheduledProcedureStepStartTime", "1031-", False),
        (f"{STEP}.ScheduledProcedureStepID", "S1", True),
        ("RequestedProcedureDescription", "head*", True),
        ("PatientName", "", True),
        ("PatientName", "*", True),
        ("AdmissionID", "X", False),
    ],
)
def test_keys_of_the_worklist(name: str, text: str, expected: bool) -> None:
    assert fits((name, text)) is expected


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("20260704-20260706", "1800-0600", True),  # as one range: from the 4th at six to the 6th at six
        ("20260705-20260706", "1800-0600", False),
        ("20260704-20260705", "1800-0600", False),
        ("20260704-20260705", "1800-1030", True),
        ("20260705-", "1030-", True),
        ("20260705-", "1031-", False),
        ("20260704-", "1800-", True),
        ("-20260705", "-1030", True),
        ("-20260705", "-1029", False),
        ("20260705", "1000-1100", True),
        ("20260705", "1100-1200", False),
        ("20260704-20260706", "1030", True),
        ("20260704-20260706", "1031", False),
    ],
)
def test_a_range_of_dates_and_one_of_times_are_one(date: str, time: str, expected: bool) -> None:
    keys = (f"{STEP}.ScheduledProcedureStepStartDate", date), (f"{STEP}.ScheduledProcedureStepStartTime", time)
    assert fits(*keys) is expected


def test_a_step_without_a_time_may_be_at_any_of_its_day() -> None:
    keys = (
        (f"{STEP}.ScheduledProcedureStepStartDate", "20260704-20260705"),
        (f"{STEP}.ScheduledProcedureStepStartTime", "1800-0600"),
    )
    assert fits(*keys, ScheduledProcedureStepStartTime="")
    assert not fits(*keys, ScheduledProcedureStepStartTime="", ScheduledProcedureStepStartDate="20260706")
    assert not fits(*keys, ScheduledProcedureStepStartTime="", ScheduledProcedureStepStartDate="")


def test_one_of_several_stations_is_enough() -> None:
    assert fits((f"{STEP}.ScheduledStationAETitle", "CT2"), ScheduledStationAETitle=["CT1", "CT2"])


def test_names_are_compared_without_case_and_accents() -> None:
    name = "Müller^Zoë=魔^女"
    for asked in ("muller^zoe", "MÜLLER*", "魔^女", "魔*"):
        assert fits(("PatientName", asked), PatientName=name)
    assert fits(("PatientName", "zoe mul"), fuzzy=True, PatientName=name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NoSuchKey", "secret"),
        (f"{STEP}.ScheduledProcedureStepStartDate", "secret-"),
        ("PatientName.Modality", "secret"),
        (STEP, "secret"),
        ("<script>", "secret"),
    ],
)
def test_what_cannot_be_asked_is_told_without_its_value(name: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_item_query([(name, text)])
    assert "secret" not in str(caught.value)
    assert "<" not in str(caught.value)


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(BadRequest, match="more than 200 keys"):
        parse_item_query([("PatientID", "1")] * 201)


def identifier() -> Dataset:
    ds, step = Dataset(), Dataset()
    ds.SpecificCharacterSet, ds.PatientName, ds.PatientID, ds.AccessionNumber = "ISO_IR 100", "Doe*", "", None
    ds.AdmissionID = ""
    step.Modality, step.ScheduledStationAETitle, step.ScheduledStationName = "CT", ["CT1", "CT2"], ""
    ds.ScheduledProcedureStepSequence = [step]
    return ds


def test_an_identifier_is_keys() -> None:
    assert identifier_keys(as_json(identifier())) == [
        ("00100010", "Doe*"),
        ("00400100.00080060", "CT"),
        ("00400100.00400001", "CT1\\CT2"),
    ]


def test_what_need_not_be_matched_and_comes_as_zero_is_no_key() -> None:
    """dcmjs-dimse asks for Pregnancy Status so, in each worklist question."""
    asked = Dataset()
    asked.PregnancyStatus, asked.PatientID = 0, "P1"
    assert identifier_keys(as_json(asked)) == [("00100020", "P1")]


def test_a_sequence_with_two_items_is_no_key() -> None:
    ds = identifier()
    ds.ScheduledProcedureStepSequence = [Dataset(), Dataset()]
    with pytest.raises(BadRequest, match="00400100"):
        identifier_keys(as_json(ds))


def test_what_is_asked_for_is_answered() -> None:
    told = Dataset.from_json(answer(as_json(scheduled()), as_json(identifier())))
    assert [element.keyword for element in told] == [
        "AccessionNumber", "PatientName", "PatientID", "AdmissionID", "ScheduledProcedureStepSequence",
    ]  # fmt: skip
    assert (told.PatientName, told.PatientID, told.AccessionNumber, told.AdmissionID) == ("Doe^Jane", "P1", "A1", "")
    (step,) = told.ScheduledProcedureStepSequence
    assert {element.keyword: element.value for element in step} == {
        "Modality": "CT",
        "ScheduledStationAETitle": "CT1",
        "ScheduledStationName": "",
    }


@pytest.mark.parametrize("items", [[], [Dataset()]])
def test_a_sequence_that_names_nothing_is_answered_whole(items: list[Dataset]) -> None:
    ds = Dataset()
    ds.ScheduledProcedureStepSequence = items
    told = Dataset.from_json(answer(as_json(scheduled()), as_json(ds)))
    assert told.ScheduledProcedureStepSequence == scheduled().ScheduledProcedureStepSequence
