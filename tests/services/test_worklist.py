from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydicom.dataset import Dataset

from dicomnode.dicom.item_query import ItemQuery, parse_item_query
from dicomnode.documents import Documents
from dicomnode.errors import BadRequest, NotFound
from dicomnode.services.worklist import Worklist
from tests.steps import STUDY, as_json, drop, scheduled

ANY = ItemQuery()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "worklist"


@pytest.fixture
def worklist(folder: Path) -> Worklist:
    return Worklist(Documents(folder, "default", "worklist"), 100)


async def names(worklist: Worklist, *keys: tuple[str, str], tenant: str = "default", done: bool = False) -> list[str]:
    return [step.name for step in await worklist.search(tenant, parse_item_query(keys), done=done)]


async def test_files_of_a_site_are_entries(worklist: Worklist, folder: Path) -> None:
    assert await worklist.search("default", ANY) == []
    drop(folder, "late.json", scheduled(ScheduledProcedureStepStartTime="1200"))
    drop(folder, "early.json", scheduled(PatientName="Müller^Zoë"))
    late_and_early = await worklist.search("default", ANY)
    assert [step.name for step in late_and_early] == ["early", "late"]
    assert Dataset.from_json(dict(late_and_early[0].attributes)) == scheduled(PatientName="Müller^Zoë")
    assert late_and_early[0].warnings == ()
    assert await names(worklist, ("PatientName", "muller*")) == ["early"]


async def test_what_changes_in_the_folder_is_seen(worklist: Worklist, folder: Path) -> None:
    path = drop(folder, "a.json", scheduled())
    assert await names(worklist, ("PatientID", "P1")) == ["a"]
    drop(folder, "a.json", scheduled(PatientID="OTHER"))
    assert await names(worklist, ("PatientID", "P1")) == []
    assert await names(worklist, ("PatientID", "OTHER")) == ["a"]
    path.unlink()
    assert await names(worklist) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "no json",
        "[]",
        "{}",
        "[1]",
        "3",
        '{"00100010": "Doe^Jane"}',
        '{"00100010": {"vr": "PN", "Value": [7]}, "00400100": {"vr": "SQ", "Value": [{}]}}',
        '{"00400100": {"vr": "SQ", "Value": []}}',
        '{"00400100": {"vr": "SQ", "Value": [{}]}}',
        '{"00400100": {"vr": "SQ", "Value": ["Doe^Jane"]}}',
        '{"00400100": {"vr": "LO", "Value": ["Doe^Jane"]}}',
        '{"00400100": {"vr": "SQ", "Value": 5}}',
        '{"Doe^Jane": {"vr": "LO"}}',
        "[" * 60_000,
        " " * 100_000,
        '{"00400100": {"vr": "SQ", "Value": [{"00080060": {"vr": "ZZ", "Value": ["Doe^Jane"]}}]}}',
    ],
)
async def test_a_broken_file_spoils_nothing_and_is_told_once(text: str, worklist: Worklist, folder: Path) -> None:
    drop(folder, "good.json", scheduled())
    (folder / "bad.json").write_text(text)
    with structlog.testing.capture_logs() as told:
        for _ in range(3):
            assert await names(worklist) == ["good"]
    (warning,) = told
    assert (warning["event"], warning["file"]) == ("worklist.unreadable", "bad.json")
    assert "Doe" not in str(warning)
    drop(folder, "bad.json", scheduled())
    assert await names(worklist) == ["bad", "good"]


async def test_a_file_that_is_not_utf_8_is_broken(worklist: Worklist, folder: Path) -> None:
    path = drop(folder, "a.json", scheduled(PatientName="Müller"))
    path.write_bytes(path.read_bytes().decode().encode("latin-1"))
    assert await names(worklist) == []


async def test_a_byte_order_mark_and_a_list_of_one_are_forgiven(worklist: Worklist, folder: Path) -> None:
    path = drop(folder, "a.json", scheduled())
    path.write_bytes(b"\xef\xbb\xbf[" + path.read_bytes() + b"]")
    assert await names(worklist, ("PatientID", "P1")) == ["a"]


async def test_an_incomplete_entry_is_served_and_told_once(worklist: Worklist, folder: Path) -> None:
    drop(folder, "a.json", scheduled(PatientID="", ScheduledStationAETitle=None))
    with structlog.testing.capture_logs() as told:
        for _ in range(3):
            assert await names(worklist, ("PatientName", "Doe*")) == ["a"]
    (warning,) = told
    assert warning["event"] == "worklist.incomplete"
    assert warning["reason"] == "there is no value of PatientID, ScheduledStationAETitle."


async def test_files_of_any_name_have_names_that_are_safe(worklist: Worklist, folder: Path) -> None:
    for file in ("Order 7 (head).json", "ä.json", "-x.json", "plain_7.json"):
        drop(folder, file, scheduled())
    found = await names(worklist)
    assert "plain_7" in found
    assert all(name.isascii() and name.isalnum() for name in set(found) - {"plain_7"})
    assert len(set(found)) == 4
    for name in found:
        assert (await worklist.entry("default", name)).attributes["00100020"]["Value"] == ["P1"]
    (odd,) = [step for step in await worklist.search("default", ANY) if step.file == "ä.json"]
    await worklist.delete("default", odd.name)
    assert not (folder / "ä.json").exists()


async def test_entries_are_made_replaced_and_deleted(worklist: Worklist, folder: Path) -> None:
    made = await worklist.create("default", as_json(scheduled()))
    assert json.loads((folder / f"{made.name}.json").read_text()) == made.attributes
    assert (await worklist.entry("default", made.name)) == made
    _, new = await worklist.replace("default", made.name, as_json(scheduled(PatientID="P2")))
    assert not new
    assert await names(worklist, ("PatientID", "P2")) == [made.name]
    _, new = await worklist.replace("default", "order-7", as_json(scheduled()))
    assert new
    await worklist.delete("default", made.name)
    assert await names(worklist) == ["order-7"]
    for step in (worklist.entry, worklist.delete):
        with pytest.raises(NotFound):
            await step("default", made.name)
    with pytest.raises(BadRequest):
        await worklist.create("default", {"00100010": {"vr": "PN"}})


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "..", "", "a b", "x" * 200, "a\0"])
async def test_no_name_leads_out_of_the_folder(name: str, worklist: Worklist, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        await worklist.replace("default", name, as_json(scheduled()))
    for step in (worklist.entry, worklist.delete):
        with pytest.raises(NotFound):
            await step("default", name)
    assert list(tmp_path.rglob("*.json")) == []


async def test_tenants_see_their_own(worklist: Worklist, folder: Path) -> None:
    drop(folder, "a.json", scheduled())
    drop(folder / "clinic", "b.json", scheduled())
    assert await names(worklist) == ["a"]
    assert await names(worklist, tenant="clinic") == ["b"]
    assert await names(worklist, tenant="nobody") == []
    await worklist.create("practice", as_json(scheduled()))
    assert len(await names(worklist, tenant="practice")) == 1
    assert await worklist.follow("clinic", STUDY, "S1", "STARTED") == 1
    assert (await worklist.entry("default", "a")).step.get("00400020") is None


async def test_a_step_that_is_done_leaves_the_list(worklist: Worklist, folder: Path) -> None:
    path = drop(folder, "a.json", scheduled())
    drop(folder, "b.json", scheduled(ScheduledProcedureStepID="S2"))
    status = ("ScheduledProcedureStepSequence.ScheduledProcedureStepStatus", "COMPLETED")
    assert await worklist.follow("default", STUDY, "S1", "STARTED") == 1
    assert await names(worklist) == ["a", "b"]
    assert await worklist.follow("default", STUDY, "S1", "COMPLETED") == 1
    assert await names(worklist) == ["b"]
    assert await names(worklist, done=True) == ["a", "b"]
    assert await names(worklist, status) == ["a"]
    assert await names(worklist, (status[0], "*")) == ["a", "b"]
    assert Dataset.from_json(path.read_text()) == scheduled(ScheduledProcedureStepStatus="COMPLETED")
    assert await worklist.follow("default", STUDY, "S9", "STARTED") == 0
    assert await worklist.follow("default", "9.9", "S1", "STARTED") == 0


async def test_of_too_many_files_the_oldest_are_passed_over(folder: Path) -> None:
    for number in range(5):
        os.utime(drop(folder, f"{number}.json", scheduled()), (number, number))
    worklist = Worklist(Documents(folder, "default", "worklist"), 3)
    with structlog.testing.capture_logs() as told:
        for _ in range(2):
            assert await names(worklist) == ["2", "3", "4"]
    assert [(event["event"], event["files"]) for event in told] == [("worklist.full", 5)]


async def test_entries_survive_a_restart(worklist: Worklist, folder: Path) -> None:
    made = await worklist.create("default", as_json(scheduled(PatientName="Müller^Zoë=魔^女")))
    again = Worklist(Documents(folder, "default", "worklist"), 100)
    assert await again.search("default", ANY) == [made]


async def test_what_cannot_be_an_identifier_is_refused(worklist: Worklist) -> None:
    entry: dict[str, Any] = as_json(scheduled())
    for _ in range(70):
        entry = {"00400100": {"vr": "SQ", "Value": [entry]}}
    with pytest.raises(BadRequest, match="nested deeper"):
        await worklist.create("default", entry)
