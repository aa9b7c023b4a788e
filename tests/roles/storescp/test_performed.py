from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from dicomnode.dicom.item_query import ItemQuery
from dicomnode.dicom.uid import is_uid
from dicomnode.roles.storescp.performed import PERFORMED_STEP, PERFORMED_STEP_RETRIEVE, PerformedScp
from dicomnode.roles.storescp.role import StoreScp
from tests.roles.storescp.scp import associated, open_scp
from tests.rooms import Rooms, open_rooms
from tests.steps import drop, finished, performed, scheduled

UID = "1.2.3.4"


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path) as rooms:
        yield rooms


@pytest.fixture
async def scp(rooms: Rooms) -> AsyncIterator[StoreScp]:
    async with open_scp([PerformedScp(rooms.performed)], rooms.ingest) as role:
        yield role


@pytest.fixture
async def modality(scp: StoreScp) -> AsyncIterator[Association]:
    ae = AE("CT1")
    ae.add_requested_context(PERFORMED_STEP, ExplicitVRLittleEndian)
    ae.add_requested_context(PERFORMED_STEP_RETRIEVE)
    async with associated(scp, ae) as association:
        yield association


async def create(modality: Association, ds: Dataset, uid: str | None = UID) -> Dataset:
    told, _ = await asyncio.to_thread(modality.send_n_create, ds, PERFORMED_STEP, uid)
    answer: Dataset = told
    return answer


async def change(modality: Association, ds: Dataset, uid: str = UID) -> Dataset:
    told, _ = await asyncio.to_thread(modality.send_n_set, ds, PERFORMED_STEP, uid)
    answer: Dataset = told
    return answer


async def test_a_modality_tells_of_its_step(rooms: Rooms, modality: Association, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    begun = performed(PatientName="Müller^Zoë", SpecificCharacterSet="ISO_IR 100")
    assert (await create(modality, begun)).Status == 0
    (step,) = await rooms.worklist.search("default", ItemQuery())
    assert step.step["00400020"]["Value"] == ["STARTED"]
    assert (await change(modality, finished())).Status == 0
    assert await rooms.worklist.search("default", ItemQuery()) == []
    kept = Dataset.from_json(dict(await rooms.performed.get("default", UID)))
    assert (kept.PatientName, kept.PerformedProcedureStepStatus) == ("Müller^Zoë", "COMPLETED")
    assert kept.PerformedSeriesSequence[0].ProtocolName == "Head"


async def test_a_step_that_ended_may_no_longer_be_updated(modality: Association) -> None:
    await create(modality, performed())
    assert (await change(modality, finished("DISCONTINUED"))).Status == 0
    told = await change(modality, finished())
    assert (told.Status, told.ErrorID) == (0x0110, 0xA710)
    assert told.ErrorComment == "Performed Procedure Step Object may no longer be updated"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Modality": None}, 0x0120),
        ({"PerformedProcedureStepID": ""}, 0x0121),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"PerformedProcedureStepStatus": "SECRET"}, 0x0106),
    ],
)
async def test_a_step_that_cannot_begin(changes: dict[str, Any], status: int, modality: Association) -> None:
    told = await create(modality, performed(**changes))
    assert told.Status == status
    assert "SECRET" not in told.ErrorComment
    assert (await change(modality, finished())).Status == 0x0112


async def test_other_faults(modality: Association) -> None:
    assert (await create(modality, performed())).Status == 0
    assert (await create(modality, performed())).Status == 0x0111
    assert (await change(modality, finished("SECRET"))).Status == 0x0106
    assert (await change(modality, finished(), "9.9")).Status == 0x0112
    other = finished()
    other.PatientID = "P2"
    told = await change(modality, other)
    assert (told.Status, told.ErrorComment) == (0x0107, "kept, but for: 00100020")


async def test_the_node_makes_up_a_uid(rooms: Rooms, modality: Association) -> None:
    told: list[str] = []
    modality.bind(evt.EVT_DIMSE_RECV, lambda event: told.append(event.message.command_set.AffectedSOPInstanceUID))
    assert (await create(modality, performed(), None)).Status == 0
    (uid,) = told
    assert is_uid(uid)
    assert (await rooms.performed.get("default", uid))["00100020"]["Value"] == ["P1"]


async def test_a_step_is_read_back(modality: Association) -> None:
    await create(modality, performed())

    def get(tags: list[int], uid: str = UID) -> tuple[Dataset, Dataset]:
        told, found = modality.send_n_get([BaseTag(tag) for tag in tags], PERFORMED_STEP_RETRIEVE, uid)
        return told, found or Dataset()

    told, found = await asyncio.to_thread(get, [])
    assert (told.Status, found.PatientID, found.SOPInstanceUID) == (0, "P1", UID)
    told, found = await asyncio.to_thread(get, [0x00400252, 0x00100020])
    assert (told.Status, [element.keyword for element in found]) == (0, ["PatientID", "PerformedProcedureStepStatus"])
    told, found = await asyncio.to_thread(get, [0x00400252, 0x00101010])
    assert (told.Status, len(found)) == (0x0001, 1)
    told, _ = await asyncio.to_thread(get, [], "9.9")
    assert told.Status == 0x0112


async def test_a_step_survives_a_restart(rooms: Rooms, modality: Association, tmp_path: Path) -> None:
    await create(modality, performed())
    async with open_rooms(tmp_path) as again, open_scp([PerformedScp(again.performed)], again.ingest) as role:
        ae = AE("CT1")
        ae.add_requested_context(PERFORMED_STEP)
        async with associated(role, ae) as later:
            assert (await create(later, performed())).Status == 0x0111
            assert (await change(later, finished())).Status == 0
