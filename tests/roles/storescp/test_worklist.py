from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from dicomnode.dimse.service import MODALITY_WORKLIST
from dicomnode.roles.storescp.role import StoreScp
from dicomnode.roles.storescp.worklist import WorklistScp
from tests.roles.storescp.scp import associated, findscu, open_scp
from tests.rooms import Rooms, open_rooms
from tests.steps import as_json, drop, scheduled

STEP = "ScheduledProcedureStepSequence[0]"


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path) as rooms:
        yield rooms


@pytest.fixture
async def scp(rooms: Rooms) -> AsyncIterator[StoreScp]:
    async with open_scp([WorklistScp(rooms.worklist)], rooms.ingest) as role:
        yield role


def question(charset: str = "", **keys: Any) -> Dataset:
    """Return an identifier as modalities send it; keys by keyword go to where they belong."""
    ds = scheduled()
    for element in (*ds.ScheduledProcedureStepSequence[0], *ds):
        if element.VR != "SQ":
            element.value = None
    step = ds.ScheduledProcedureStepSequence[0]
    step.ScheduledProcedureStepStatus = None
    for keyword, value in keys.items():
        setattr(step if keyword in step else ds, keyword, value)
    if charset:
        ds.SpecificCharacterSet = charset
    return ds


async def ask(
    scp: StoreScp, ds: Dataset, syntax: str = ImplicitVRLittleEndian, **more: Any
) -> tuple[list[int], list[Dataset]]:
    """Ask with pynetdicom; return all statuses, and the matches."""
    ae = AE("CT1")
    ae.add_requested_context(MODALITY_WORKLIST, syntax)
    async with associated(scp, ae, **more) as association:
        answers = await asyncio.to_thread(lambda: list(association.send_c_find(ds, MODALITY_WORKLIST)))
    return [told.Status for told, _ in answers], [found for _, found in answers if found is not None]


@pytest.mark.external("findscu")
async def test_findscu_is_given_what_it_asks_for(scp: StoreScp, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    drop(tmp_path / "worklist", "b.json", scheduled(Modality="MR", PatientName="Roe^Richard"))
    keys = ["PatientName", "PatientID", "StudyInstanceUID", f"{STEP}.Modality=CT", f"{STEP}.ScheduledStationAETitle"]
    code, (found,) = await findscu(scp, tmp_path / "out", [*keys, f"{STEP}.ScheduledProcedureStepStartDate=20260701-"])
    assert code == 0
    assert (found.PatientName, found.PatientID) == ("Doe^Jane", "P1")
    assert found.StudyInstanceUID == scheduled().StudyInstanceUID
    (step,) = found.ScheduledProcedureStepSequence
    assert (step.Modality, step.ScheduledStationAETitle) == ("CT", "CT1")
    assert "AccessionNumber" not in found
    code, found_none = await findscu(scp, tmp_path / "none", [f"{STEP}.Modality=US"])
    assert (code, found_none) == (0, [])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
async def test_entries_are_answered_in_any_syntax(syntax: str, scp: StoreScp, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    statuses, (found,) = await ask(scp, question(), syntax)
    assert statuses == [0xFF00, 0x0000]
    expected = scheduled(ScheduledProcedureStepStatus="")
    assert found == expected


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"ScheduledStationAETitle": "CT1"}, ["A", "B"]),
        ({"ScheduledStationAETitle": "MR1"}, ["C"]),
        ({"Modality": "CT", "ScheduledProcedureStepStartDate": "20260705"}, ["A"]),
        ({"ScheduledProcedureStepStartDate": "20260705-20260706"}, ["A", "B"]),
        (
            {
                "ScheduledProcedureStepStartDate": "20260705-20260706",
                "ScheduledProcedureStepStartTime": "1100-0900",
            },
            ["B"],
        ),
        ({"PatientName": "b*"}, ["B"]),
        ({"PatientID": "P1", "Modality": "MR"}, ["C"]),
        ({"ScheduledPerformingPhysicianName": "HOUSE^GREGORY"}, ["A", "B", "C"]),
        ({"PatientName": "*", "Modality": "*"}, ["A", "B", "C"]),
        ({"AccessionNumber": "nothing"}, []),
    ],
)
async def test_keys_choose(keys: dict[str, str], names: list[str], scp: StoreScp, tmp_path: Path) -> None:
    folder = tmp_path / "worklist"
    drop(folder, "a.json", scheduled(PatientName="A"))
    later = {"ScheduledProcedureStepStartDate": "20260706", "ScheduledProcedureStepStartTime": "0800"}
    drop(folder, "b.json", scheduled(PatientName="B", **later))
    drop(
        folder,
        "c.json",
        scheduled(
            PatientName="C",
            Modality="MR",
            ScheduledStationAETitle=["MR1", "MR2"],
            ScheduledProcedureStepStartDate="20260801",
        ),
    )
    statuses, found = await ask(scp, question(**keys))
    assert sorted(str(one.PatientName) for one in found) == names
    assert statuses == [0xFF00] * len(names) + [0]


@pytest.mark.parametrize(
    ("charset", "asked", "told"),
    [
        ("ISO_IR 100", "Müller*", "ISO_IR 100"),
        ("ISO_IR 192", "Müller*", "ISO_IR 192"),
        ("", "M?ller*", "ISO_IR 192"),
        ("ISO_IR 144", "M?ller*", "ISO_IR 192"),  # Cyrillic cannot say ü
    ],
)
async def test_character_sets_of_question_and_answer(
    charset: str, asked: str, told: str, scp: StoreScp, tmp_path: Path
) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled(PatientName="Müller^Zoë"))
    _, (found,) = await ask(scp, question(charset, PatientName=asked))
    found.decode()
    assert (found.PatientName, found.SpecificCharacterSet) == ("Müller^Zoë", told)


async def test_fuzzy_names_where_agreed(scp: StoreScp, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = MODALITY_WORKLIST, b"\x01\x01\x01"
    assert len((await ask(scp, question(PatientName="jane"), ext_neg=[item]))[1]) == 1
    assert len((await ask(scp, question(PatientName="jane")))[1]) == 0


async def test_done_steps_come_only_when_asked_for(rooms: Rooms, scp: StoreScp, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled(ScheduledProcedureStepStatus="COMPLETED"))
    assert (await ask(scp, question()))[1] == []
    _, (found,) = await ask(scp, question(ScheduledProcedureStepStatus="COMPLETED"))
    assert found.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus == "COMPLETED"


@pytest.mark.parametrize("keys", [{"StudyInstanceUID": "1.2*"}, {"ScheduledProcedureStepStartDate": "20260705-x"}])
async def test_what_cannot_be_asked(keys: dict[str, str], scp: StoreScp, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    statuses, found = await ask(scp, question(**keys))
    assert (statuses, found) == ([0xA900], [])
    assert (await ask(scp, question()))[0] == [0xFF00, 0]


async def test_a_cancelled_question_ends(rooms: Rooms, scp: StoreScp, tmp_path: Path) -> None:
    for number in range(500):
        drop(tmp_path / "worklist", f"{number}.json", scheduled(PatientComments="x" * 5000))
    ae = AE("CT1")
    ae.add_requested_context(MODALITY_WORKLIST)

    def cancelled() -> list[int]:
        statuses: list[int] = []
        keys = question()
        keys.PatientComments = None
        for told, _ in association.send_c_find(keys, MODALITY_WORKLIST, msg_id=7):
            if not statuses:
                association.send_c_cancel(7, None, MODALITY_WORKLIST)
            statuses.append(told.Status)
        return statuses

    async with associated(scp, ae) as association:
        statuses = await asyncio.to_thread(cancelled)
    assert statuses[-1] in (0xFE00, 0x0000)  # the peer may be too late
    assert set(statuses[:-1]) == {0xFF00}


async def test_many_are_answered(rooms: Rooms, scp: StoreScp) -> None:
    for _ in range(30):
        await rooms.worklist.create("default", as_json(scheduled()))
    assert len((await ask(scp, question()))[1]) == 30
