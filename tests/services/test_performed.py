from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydicom.dataset import Dataset

from dicomnode.dicom.item_query import ItemQuery, parse_item_query
from dicomnode.dicom.uid import is_uid
from dicomnode.documents import Documents
from dicomnode.errors import Corrupt, NodeError, NotFound, Unavailable
from dicomnode.services.performed import (
    EmptyAttribute,
    Exists,
    InvalidValue,
    IsFinal,
    MissingAttribute,
    PerformedSteps,
)
from dicomnode.services.worklist import Worklist
from tests.steps import STUDY, as_json, drop, finished, performed, scheduled

UID = "1.2.3.4"


@pytest.fixture
def worklist(tmp_path: Path) -> Worklist:
    return Worklist(Documents(tmp_path / "worklist", "default", "worklist"), 100)


@pytest.fixture
def steps(tmp_path: Path, worklist: Worklist) -> PerformedSteps:
    return PerformedSteps(Documents(tmp_path / "performed", "default", "performed"), worklist)


async def status_of(worklist: Worklist, name: str) -> str:
    values: list[str] = (await worklist.entry("default", name)).step.get("00400020", {}).get("Value", [""])
    return values[0]


async def test_a_step_begins_and_ends(steps: PerformedSteps, worklist: Worklist, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    drop(tmp_path / "worklist", "b.json", scheduled(ScheduledProcedureStepID="S2"))
    assert await steps.create("default", UID, as_json(performed(PatientName="Müller^Zoë"))) == UID
    assert await status_of(worklist, "a") == "STARTED"
    assert list(await steps.update("default", UID, as_json(finished()))) == []
    assert await status_of(worklist, "a") == "COMPLETED"
    assert await status_of(worklist, "b") == ""
    assert [step.name for step in await worklist.search("default", ItemQuery())] == ["b"]
    told = Dataset.from_json(dict(await steps.get("default", UID)))
    assert (told.SOPInstanceUID, told.PatientName) == (UID, "Müller^Zoë")
    assert (told.PerformedProcedureStepStatus, told.PerformedProcedureStepEndTime) == ("COMPLETED", "104500")
    assert told.PerformedSeriesSequence[0].ProtocolName == "Head"


async def test_a_discontinued_step_is_done_and_may_begin_again(
    steps: PerformedSteps, worklist: Worklist, tmp_path: Path
) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    await steps.create("default", UID, as_json(performed()))
    await steps.update("default", UID, as_json(finished("DISCONTINUED")))
    assert await status_of(worklist, "a") == "DISCONTINUED"
    await steps.create("default", "1.2.3.5", as_json(performed()))
    assert await status_of(worklist, "a") == "STARTED"


async def test_several_scheduled_steps_may_be_performed_as_one(
    steps: PerformedSteps, worklist: Worklist, tmp_path: Path
) -> None:
    ds = performed()
    for number in (2, 3):
        drop(tmp_path / "worklist", f"{number}.json", scheduled(ScheduledProcedureStepID=f"S{number}"))
        item = Dataset()
        item.StudyInstanceUID, item.ScheduledProcedureStepID = STUDY, f"S{number}"
        ds.ScheduledStepAttributesSequence.append(item)
    await steps.create("default", UID, as_json(ds))
    assert [await status_of(worklist, name) for name in ("2", "3")] == ["STARTED", "STARTED"]


async def test_an_unscheduled_step_is_kept(steps: PerformedSteps) -> None:
    ds = performed()
    ds.ScheduledStepAttributesSequence[0].ScheduledProcedureStepID = ""
    await steps.create("default", UID, as_json(ds))
    assert (await steps.get("default", UID))["00100020"]["Value"] == ["P1"]


async def test_a_step_without_a_uid_is_given_one(steps: PerformedSteps) -> None:
    uid = await steps.create("default", "", as_json(performed()))
    assert is_uid(uid)
    assert (await steps.get("default", uid))["00080018"]["Value"] == [uid]


async def test_a_step_survives_a_restart(steps: PerformedSteps, worklist: Worklist, tmp_path: Path) -> None:
    await steps.create("default", UID, as_json(performed()))
    again = PerformedSteps(Documents(tmp_path / "performed", "default", "performed"), worklist)
    await again.update("default", UID, as_json(finished()))
    with pytest.raises(IsFinal):
        await steps.update("default", UID, as_json(finished()))


async def test_a_step_is_made_once(steps: PerformedSteps) -> None:
    await steps.create("default", UID, as_json(performed()))
    with pytest.raises(Exists):
        await steps.create("default", UID, as_json(performed(PatientID="P2")))
    assert (await steps.get("default", UID))["00100020"]["Value"] == ["P1"]


async def test_what_a_crash_kept_from_the_worklist_is_made_up_for(
    steps: PerformedSteps, worklist: Worklist, tmp_path: Path
) -> None:
    await steps.create("default", UID, as_json(performed()))
    drop(tmp_path / "worklist", "a.json", scheduled())  # as it was before the step began
    with pytest.raises(Exists):
        await steps.create("default", UID, as_json(performed()))
    assert await status_of(worklist, "a") == "STARTED"


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
async def test_a_step_that_ended_is_not_changed(status: str, steps: PerformedSteps) -> None:
    await steps.create("default", UID, as_json(performed()))
    await steps.update("default", UID, as_json(finished(status)))
    before = await steps.get("default", UID)
    with pytest.raises(IsFinal):
        await steps.update("default", UID, as_json(finished()))
    assert await steps.get("default", UID) == before


async def test_a_step_may_be_changed_while_it_goes_on(steps: PerformedSteps) -> None:
    await steps.create("default", UID, as_json(performed()))
    changes = Dataset()
    changes.PerformedProcedureStepDescription = "Head, repeated"
    assert list(await steps.update("default", UID, as_json(changes))) == []
    told = await steps.get("default", UID)
    assert (told["00400254"]["Value"], told["00400252"]["Value"]) == (["Head, repeated"], ["IN PROGRESS"])


async def test_who_it_was_cannot_be_changed(steps: PerformedSteps) -> None:
    await steps.create("default", UID, as_json(performed()))
    changes = finished()
    changes.PatientID, changes.PatientName, changes.Modality = "P2", "Doe^Jane", "CT"
    assert list(await steps.update("default", UID, as_json(changes))) == ["00100020"]
    told = await steps.get("default", UID)
    assert (told["00100020"]["Value"], told["00400252"]["Value"]) == (["P1"], ["COMPLETED"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Modality": None}, MissingAttribute),
        ({"PerformedProcedureStepStatus": None}, MissingAttribute),
        ({"ScheduledStepAttributesSequence": None}, MissingAttribute),
        ({"PerformedProcedureStepID": ""}, EmptyAttribute),
        ({"ScheduledStepAttributesSequence": []}, EmptyAttribute),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, MissingAttribute),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, InvalidValue),
        ({"PerformedProcedureStepStatus": "SECRET"}, InvalidValue),
    ],
)
async def test_a_step_that_cannot_begin(changes: dict[str, Any], error: type[NodeError], steps: PerformedSteps) -> None:
    with pytest.raises(error) as caught:
        await steps.create("default", UID, as_json(performed(**changes)))
    assert "SECRET" not in str(caught.value)
    with pytest.raises(NotFound):
        await steps.get("default", UID)


async def test_a_status_that_is_none_changes_nothing(steps: PerformedSteps) -> None:
    await steps.create("default", UID, as_json(performed()))
    for status, error in (("SECRET", InvalidValue), ("", EmptyAttribute)):
        with pytest.raises(error):
            await steps.update("default", UID, as_json(finished(status)))
    assert (await steps.get("default", UID))["00400252"]["Value"] == ["IN PROGRESS"]


async def test_what_is_not_there_is_told(steps: PerformedSteps) -> None:
    with pytest.raises(NotFound):
        await steps.update("default", "9.9", as_json(finished()))
    await steps.create("default", UID, as_json(performed()))
    with pytest.raises(NotFound):
        await steps.get("clinic", UID)


@pytest.mark.parametrize("uid", ["../../x", "/etc/x", "1.2\0", "a" * 300, "..", "1.2.3/../4", ";$(x)"])
async def test_no_uid_leads_out_of_the_folder(uid: str, steps: PerformedSteps, tmp_path: Path) -> None:
    await steps.create("default", uid, as_json(performed()))
    (path,) = tmp_path.rglob("*.json")
    assert path.parent == tmp_path / "performed"
    await steps.update("default", uid, as_json(finished()))
    assert (await steps.get("default", uid))["00400252"]["Value"] == ["COMPLETED"]


async def test_steps_are_found(steps: PerformedSteps, tmp_path: Path) -> None:
    for number in range(4):
        await steps.create("default", f"1.2.{number}", as_json(performed(PatientID=f"P{number % 2}")))
    query = parse_item_query([("PatientID", "P1")])
    assert {step["00080018"]["Value"][0] for step in await steps.search("default", query, 10)} == {"1.2.1", "1.2.3"}
    assert len(await steps.search("default", query, 1)) == 1
    assert await steps.search("clinic", ItemQuery(), 10) == []
    (tmp_path / "performed" / "1.2.0.json").write_text("{")
    with structlog.testing.capture_logs() as told:
        assert len(await steps.search("default", ItemQuery(), 10)) == 3
    assert [event["event"] for event in told] == ["performed.unreadable"]
    with pytest.raises(Corrupt):
        await steps.get("default", "1.2.0")


async def test_a_worklist_that_cannot_be_written_fails_no_step(tmp_path: Path) -> None:
    class Away:
        async def follow(self, tenant: str, study_uid: str, step_id: str, status: str) -> int:
            raise Unavailable("worklist", "read-only file system")

    steps = PerformedSteps(Documents(tmp_path / "performed", "default", "performed"), Away())
    with structlog.testing.capture_logs() as told:
        await steps.create("default", UID, as_json(performed()))
    assert [event["event"] for event in told] == ["worklist.behind"]
    assert json.loads((tmp_path / "performed" / f"{UID}.json").read_text())["00080018"]["Value"] == [UID]
