from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.config import QueryTable
from dicomnode.errors import Unavailable
from dicomnode.model.query import Query
from dicomnode.services import find as service
from tests.corpus import make
from tests.roles.storescp.doors import PATIENT, PATIENT_STUDY, Asking, Told, find, identifier, open_door
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms

ALWAYS = QueryTable(relational="always")
DONE = [0x0000]


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


async def fill(rooms: Rooms) -> None:
    """Take in two patients, three studies, two series each with two instances each."""
    for study, (patient, date, time) in enumerate(
        [("P1", "20260101", "080000"), ("P1", "20260102", "120000"), ("P2", "20260103", "160000")], 1
    ):
        for series in (1, 2):
            for number in (1, 2):
                await rooms.take_in(
                    make(
                        PatientID=patient,
                        PatientName=f"Doe^{patient}",
                        StudyInstanceUID=f"1.{study}",
                        SeriesInstanceUID=f"1.{study}.{series}",
                        SOPInstanceUID=f"1.{study}.{series}.{number}",
                        StudyDate=date,
                        StudyTime=time,
                        Modality="CT" if series == 1 else "SR",
                        SeriesNumber=series,
                        InstanceNumber=number,
                    )
                )


def statuses(told: list[Told]) -> list[int]:
    return [one.status for one in told]


def values(told: list[Told], keyword: str) -> list[Any]:
    return [one.ds.get(keyword) for one in told if one.ds is not None]


async def test_studies(rooms: Rooms) -> None:
    await fill(rooms)
    ds = identifier(
        "STUDY",
        StudyInstanceUID="",
        PatientName="DOE^p1",
        StudyDate="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedSeries=None,
        NumberOfStudyRelatedInstances=None,
        SOPClassesInStudy="",
    )
    async with open_door(rooms) as role:
        told = await find(role, ds)
    assert statuses(told) == [0xFF00, 0xFF00, 0x0000]
    first = told[0].ds
    assert first is not None
    assert list(first.keys()) == sorted(first.keys())
    assert {element.keyword for element in first} == {
        *("QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability", "StudyInstanceUID", "StudyDate"),
        *("ModalitiesInStudy", "SOPClassesInStudy", "PatientName"),
        *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    }
    assert (first.QueryRetrieveLevel, first.RetrieveAETitle, first.InstanceAvailability) == (
        "STUDY",
        "DICOMNODE",
        "ONLINE",
    )
    assert (first.StudyInstanceUID, first.StudyDate, first.PatientName) == ("1.2", "20260102", "Doe^P1")
    assert list(first.ModalitiesInStudy) == ["CT", "SR"]
    assert (first.NumberOfStudyRelatedSeries, first.NumberOfStudyRelatedInstances) == (2, 4)
    assert "SpecificCharacterSet" not in first


async def test_patients(rooms: Rooms) -> None:
    await fill(rooms)
    ds = identifier(
        "PATIENT",
        PatientID="*",
        PatientName="",
        NumberOfPatientRelatedStudies=None,
        NumberOfPatientRelatedSeries=None,
        NumberOfPatientRelatedInstances=None,
    )
    async with open_door(rooms) as role:
        for root in (PATIENT, PATIENT_STUDY):
            told = await find(role, ds, Asking(root))
            assert statuses(told) == [0xFF00, 0xFF00, 0]
            counts = {
                one.ds.PatientID: (
                    one.ds.NumberOfPatientRelatedStudies,
                    one.ds.NumberOfPatientRelatedSeries,
                    one.ds.NumberOfPatientRelatedInstances,
                )
                for one in told
                if one.ds
            }
            assert counts == {"P1": (2, 4, 8), "P2": (1, 2, 4)}
        # A study's attribute cannot be matched here: said, and not matched.
        ds.StudyDate = "20260101"
        assert statuses(await find(role, ds, Asking(PATIENT))) == [0xFF01, 0xFF01, 0]


async def test_series_and_images(rooms: Rooms) -> None:
    await fill(rooms)
    async with open_door(rooms) as role:
        series = identifier("SERIES", StudyInstanceUID="1.1", Modality="S?", NumberOfSeriesRelatedInstances=None)
        told = await find(role, series)
        assert values(told, "SeriesInstanceUID") == ["1.1.2"]
        assert values(told, "NumberOfSeriesRelatedInstances") == [2]
        image = identifier("IMAGE", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2", Rows=8, InstanceNumber=None)
        told = await find(role, image)
        assert values(told, "SOPInstanceUID") == ["1.1.2.1", "1.1.2.2"]
        assert values(told, "InstanceNumber") == [1, 2]
        image.SOPInstanceUID = ["1.1.2.2", "1.1.1.1", "9"]
        assert values(await find(role, image), "SOPInstanceUID") == ["1.1.2.2"]
        image.Rows = 9
        assert statuses(await find(role, image)) == DONE


@pytest.mark.parametrize(
    ("root", "ds", "named"),
    [
        (PATIENT, identifier("STUDY", StudyInstanceUID=""), "PatientID"),
        (PATIENT, identifier("STUDY", PatientID="P*", StudyInstanceUID=""), "PatientID"),
        (PATIENT, identifier("SERIES", PatientID="P1", SeriesInstanceUID=""), "StudyInstanceUID"),
        (None, identifier("SERIES", StudyInstanceUID=["1.1", "1.2"]), "StudyInstanceUID"),
        (None, identifier("SERIES", StudyInstanceUID="*"), "StudyInstanceUID"),
        (None, identifier("IMAGE", StudyInstanceUID="1.1"), "SeriesInstanceUID"),
        (None, identifier("PATIENT", PatientID=""), "QueryRetrieveLevel"),
        (PATIENT_STUDY, identifier("SERIES", PatientID="P1", StudyInstanceUID="1.1"), "QueryRetrieveLevel"),
        (None, identifier("NONE"), "QueryRetrieveLevel"),
        (None, identifier(""), "QueryRetrieveLevel"),
        (None, Dataset(), "QueryRetrieveLevel"),
    ],
)
async def test_what_the_model_asks_for(root: str | None, ds: Dataset, named: str, rooms: Rooms) -> None:
    async with open_door(rooms) as role:
        [told] = await find(role, ds if ds else identifier("x"), Asking(root) if root else None)
    assert (told.status, named in told.comment) == (0xA900, True)


async def test_relational_queries(rooms: Rooms) -> None:
    await fill(rooms)
    ds = identifier("IMAGE", PatientID="P2", SOPInstanceUID="", Modality="CT")
    async with open_door(rooms) as role:
        assert statuses(await find(role, ds)) == [0xA900]
        told = await find(role, ds, Asking(extended=b"\1\0\0"))
        assert values(told, "SOPInstanceUID") == ["1.3.1.1", "1.3.1.2"]
        # Where it is not agreed upon it is as if it had not been asked for.
        assert statuses(await find(role, ds, Asking(extended=b"\0\1\1"))) == [0xA900]
    async with open_door(rooms, ALWAYS) as role:
        assert len(await find(role, ds)) == 3
    async with open_door(rooms, QueryTable(relational="never")) as role:
        assert statuses(await find(role, ds, Asking(extended=b"\1"))) == [0xA900]


async def test_keys_of_levels_below_and_modality_of_studies(rooms: Rooms) -> None:
    await fill(rooms)
    async with open_door(rooms) as role:
        for keys, found in (
            ({"Modality": "SR"}, 3),
            ({"ModalitiesInStudy": "SR", "StudyDate": "20260102-"}, 2),
            ({"SeriesInstanceUID": "1.2.1"}, 1),
            ({"Modality": "MR"}, 0),
        ):
            told = await find(role, identifier("STUDY", StudyInstanceUID="", **keys))
            assert len(told) == found + 1, keys


async def test_dates_and_times(rooms: Rooms) -> None:
    await fill(rooms)
    async with open_door(rooms) as role:

        async def studies(extended: bytes = b"", **keys: str) -> list[str]:
            ds = identifier("STUDY", StudyInstanceUID="", **keys)
            return sorted(values(await find(role, ds, Asking(extended=extended)), "StudyInstanceUID"))

        assert await studies(StudyDate="20260102") == ["1.2"]
        assert await studies(StudyDate="20260102-") == ["1.2", "1.3"]
        assert await studies(StudyDate="-20260102") == ["1.1", "1.2"]
        assert await studies(StudyTime="10-13") == ["1.2"]
        both = {"StudyDate": "20260101-20260103", "StudyTime": "1000-1300"}
        assert await studies(b"", **both) == ["1.2"]
        # Together: from the first at ten to the third at one.
        assert await studies(b"\0\1", **both) == ["1.2"]
        apart = {"StudyDate": "20260101-20260102", "StudyTime": "1000-0900"}
        assert await studies(b"", **apart) == []
        assert await studies(b"\0\1", StudyDate="20260101-20260103", StudyTime="0700-1700") == ["1.1", "1.2", "1.3"]
        assert await studies(b"\0\1", StudyDate="20260101-20260103", StudyTime="1000-0900") == ["1.2"]
        assert await studies(b"\0\1", StudyDate="-20260102", StudyTime="-1100") == ["1.1"]
        assert await studies(b"\0\1", StudyDate="20260102-", StudyTime="1300-") == ["1.3"]
        told = await find(role, identifier("STUDY", StudyDate="yesterday"))
        assert (told[0].status, told[0].comment) == (0xA900, "StudyDate: this is no date and no range of dates")


async def test_fuzzy_names_only_when_agreed(rooms: Rooms) -> None:
    await rooms.take_in(make(PatientName="Müller^Hans Peter"))
    ds = identifier("STUDY", PatientName="peter mul", StudyInstanceUID="")
    async with open_door(rooms) as role:
        assert statuses(await find(role, ds)) == DONE
        assert statuses(await find(role, ds, Asking(extended=b"\0\0\1"))) == [0xFF00, 0]


async def test_a_key_that_cannot_be_matched_is_told_and_returned_empty(rooms: Rooms) -> None:
    await fill(rooms)
    ds = identifier("STUDY", StudyInstanceUID="1.1", InstitutionAddress="")
    ds.add_new(0x00091001, "LO", "")
    async with open_door(rooms) as role:
        told = await find(role, ds)
        assert statuses(told) == [0xFF00, 0]
        assert told[0].ds is not None
        assert told[0].ds["InstitutionAddress"].value in ("", None)
        assert 0x00091001 in told[0].ds
        ds.InstitutionAddress = "Elm Street"
        assert statuses(await find(role, ds)) == [0xFF01, 0]
        ds.InstitutionAddress = ""
        ds.NumberOfStudyRelatedInstances = 7
        assert statuses(await find(role, ds)) == [0xFF01, 0]
        ds.NumberOfStudyRelatedInstances = None
        ds.InstanceAvailability = "OFFLINE"
        assert statuses(await find(role, ds)) == DONE


async def test_keys_within_sequences(rooms: Rooms) -> None:
    for number in (1, 2):
        item = Dataset()
        item.ScheduledProcedureStepID, item.RequestedProcedureID = f"SPS{number}", "R1"
        await rooms.take_in(
            make(StudyInstanceUID="1.1", SeriesInstanceUID=f"1.1.{number}", RequestAttributesSequence=[item])
        )
    async with open_door(rooms) as role:
        item = Dataset()
        item.ScheduledProcedureStepID, item.RequestedProcedureID = "SPS?", ""
        ds = identifier("SERIES", StudyInstanceUID="1.1", RequestAttributesSequence=[item])
        assert len(await find(role, ds)) == 3
        item.ScheduledProcedureStepID = "SPS2"
        told = await find(role, ds)
        assert values(told, "SeriesInstanceUID") == ["1.1.2"]
        assert told[0].ds is not None
        assert told[0].ds.RequestAttributesSequence[0].ScheduledProcedureStepID == "SPS2"
        ds.RequestAttributesSequence = []
        assert len(await find(role, ds)) == 3
        ds.RequestAttributesSequence = [item, item]
        assert statuses(await find(role, ds)) == [0xA900]


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda uid: uid.name
)
async def test_every_encoding(syntax: str, rooms: Rooms) -> None:
    await rooms.take_in(make(PatientName="Doe^Jane", StudyInstanceUID="1.1", SeriesInstanceUID="1.2"))
    ds = identifier("IMAGE", StudyInstanceUID="1.1", SeriesInstanceUID="1.2", Rows=8, PatientName="Doe*")
    async with open_door(rooms) as role:
        told = await find(role, ds, Asking(syntax=syntax))
    assert values(told, "Rows") == [8]
    assert values(told, "PatientName") == ["Doe^Jane"]


async def test_deflated_questions_are_not_agreed_to(rooms: Rooms) -> None:
    async with open_door(rooms) as role:
        with pytest.raises(AssertionError):
            await find(role, identifier("STUDY"), Asking(syntax=DeflatedExplicitVRLittleEndian))


@pytest.mark.parametrize(
    ("asked", "key", "name", "answered"),
    [
        ("ISO_IR 192", "Mül*", "Müller^Änne", "ISO_IR 192"),
        ("ISO_IR 100", "Mül*", "Müller^Änne", "ISO_IR 100"),
        ("ISO_IR 100", "mul*", "Müller^Änne=王", "ISO_IR 192"),
        ("", "Mul*", "Müller^Änne", "ISO_IR 192"),
        ("", "", "Doe^Jane", None),
        (["", "ISO 2022 IR 87"], "*=山*", "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"]),
        ("GB18030", "*王*", "Wang^XiaoDong=王^小东", "GB18030"),
    ],
)
async def test_character_sets(asked: Any, key: str, name: str, answered: Any, rooms: Rooms) -> None:
    await rooms.take_in(make(PatientName=name))
    await rooms.take_in(make(PatientName="Someone^Else"))
    ds = Dataset()
    if asked:
        ds.SpecificCharacterSet = asked
    ds.QueryRetrieveLevel, ds.PatientName, ds.StudyInstanceUID = "STUDY", key, ""
    async with open_door(rooms) as role:
        told = await find(role, ds)
    found = [one.ds for one in told if one.ds and str(one.ds.PatientName) == name]
    assert len(found) == 1
    assert found[0].get("SpecificCharacterSet") == answered
    assert len(told) == (3 if key == "" else 2)


async def test_cancel(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_PAGE", 10)
    for number in range(400):
        await rooms.take_in(make(StudyInstanceUID=f"1.{number}", PixelData=b"12"))
    async with open_door(rooms) as role:
        told = await find(role, identifier("STUDY", StudyInstanceUID=""), Asking(stop_after=1))
        assert statuses(told)[-1] in (0xFE00, 0x0000)  # it may all have been said before the peer was heard
        assert set(statuses(told)[:-1]) == {0xFF00}
        assert len(await find(role, identifier("STUDY", StudyInstanceUID=""))) == 401


async def test_a_limit(rooms: Rooms) -> None:
    await fill(rooms)
    async with open_door(rooms, QueryTable(results=2)) as role:
        assert statuses(await find(role, identifier("STUDY", StudyInstanceUID=""))) == [0xFF00, 0xFF00, 0xA700]
        ds = identifier("STUDY", StudyInstanceUID="", PatientID="P1")
        assert statuses(await find(role, ds)) == [0xFF00, 0xFF00, 0]


async def test_tenants_see_their_own(rooms: Rooms) -> None:
    await fill(rooms)
    await rooms.take_in(make(StudyInstanceUID="1.9"), tenant="clinic")
    async with open_door(rooms, ae_titles={"CLINIC": "clinic"}) as role:
        told = await find(role, identifier("STUDY", StudyInstanceUID=""), Asking(called="CLINIC"))
        assert values(told, "StudyInstanceUID") == ["1.9"]
        assert values(told, "RetrieveAETitle") == ["CLINIC"]
        assert len(await find(role, identifier("STUDY", StudyInstanceUID=""))) == 4


async def test_an_index_that_is_away(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(query: Query) -> Any:
        raise Unavailable("sqlite", "secret")

    monkeypatch.setattr(rooms.database, "find", away)
    async with open_door(rooms) as role:
        [told] = await find(role, identifier("STUDY", StudyInstanceUID=""))
    assert (told.status, told.comment) == (0xA700, "the index cannot be read now")


async def test_more_than_one_page(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_PAGE", 2)
    await fill(rooms)
    async with open_door(rooms, ALWAYS) as role:
        told = await find(role, identifier("IMAGE", SOPInstanceUID=""))
        assert len(set(values(told, "SOPInstanceUID"))) == len(told) - 1 == 12
        told = await find(role, identifier("IMAGE", SOPInstanceUID="", SliceThickness=""))
        assert len(told) == 13


async def test_a_question_of_unreasonable_size(rooms: Rooms) -> None:
    await fill(rooms)
    many = identifier("STUDY", StudyInstanceUID=[f"1.{number}" for number in range(9000)], PatientName="")
    async with open_door(rooms) as role:
        assert len(await find(role, many)) == 4
        for count, value, said in ((1100, "", "attributes"), (300, "x", "keys")):
            ds = identifier("STUDY", StudyInstanceUID="")
            for number in range(count):
                ds.add_new(0x00111000 + number, "LO", value)
            [told] = await find(role, ds)
            assert told.status == 0xA900
            assert said in told.comment
