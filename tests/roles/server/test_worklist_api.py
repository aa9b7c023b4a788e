from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rooms import Rooms
from tests.steps import as_json, drop, finished, performed, scheduled

ROOT = "/api/v1/worklist"


async def post(web: aiohttp.ClientSession, entry: Any, headers: dict[str, str] | None = None) -> str:
    """Create an entry; return where it is."""
    async with web.post(ROOT, json=entry, headers=headers) as response:
        assert response.status == 201, await response.text()
        return response.headers["Location"]


async def listed(web: aiohttp.ClientSession, query: str = "", headers: dict[str, str] | None = None) -> list[str]:
    async with web.get(f"{ROOT}?{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "application/json"
        return [one["name"] for one in await response.json()]


async def test_an_entry_is_made_read_replaced_and_deleted(web: aiohttp.ClientSession) -> None:
    where = await post(web, as_json(scheduled(PatientName="Müller^Zoë")))
    name = where.removeprefix(f"{ROOT}/")
    assert await listed(web) == [name]
    async with web.get(where) as response:
        assert response.headers["Content-Type"] == "application/dicom+json"
        assert await response.json(content_type=None) == as_json(scheduled(PatientName="Müller^Zoë"))
    async with web.put(where, json=as_json(scheduled(PatientID="P2"))) as response:
        assert (response.status, await response.json()) == (200, {"name": name, "warnings": []})
    assert await listed(web, "PatientID=P2") == [name]
    async with web.delete(where) as response:
        assert (response.status, await response.read()) == (204, b"")
    assert await listed(web) == []
    for method in ("get", "delete"):
        async with web.request(method, where) as response:
            assert response.status == 404
            assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_ris_may_choose_the_name(web: aiohttp.ClientSession, tmp_path: Path) -> None:
    for status in (201, 200):
        async with web.put(f"{ROOT}/order-7", json=as_json(scheduled())) as response:
            assert response.status == status
    assert await listed(web) == ["order-7"]
    assert json.loads((tmp_path / "worklist" / "order-7.json").read_text()) == as_json(scheduled())


async def test_files_of_a_site_are_seen(web: aiohttp.ClientSession, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    async with web.get(ROOT) as response:
        assert await response.json() == [{"name": "a", "entry": as_json(scheduled())}]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Modality=CT", ["a"]),
        ("Modality=CT,MR", ["a", "b"]),
        ("ScheduledProcedureStepSequence.Modality=MR", ["b"]),
        ("ScheduledStationAETitle=CT*", ["a", "b"]),
        ("ScheduledProcedureStepStartDate=20260705", ["a"]),
        ("ScheduledProcedureStepStartDate=20260705-20260706&ScheduledProcedureStepStartTime=1100-2359", ["b"]),
        ("PatientName=doe*&00080060=CT", []),
        ("PatientName=jane&fuzzymatching=true", ["a", "b"]),
        ("limit=1", ["a"]),
        ("limit=1&offset=1", ["b"]),
        ("offset=2", []),
        ("PatientID=", ["a", "b"]),
    ],
)
async def test_entries_are_found(query: str, found: list[str], web: aiohttp.ClientSession, tmp_path: Path) -> None:
    drop(tmp_path / "worklist", "a.json", scheduled())
    drop(tmp_path / "worklist", "b.json", scheduled(Modality="MR", ScheduledProcedureStepStartDate="20260706"))
    assert await listed(web, query) == found


@pytest.mark.parametrize("query", ["NoSuchKey=secret", "limit=secret", "StudyInstanceUID=1.secret*", "offset=-1"])
async def test_what_cannot_be_asked(query: str, web: aiohttp.ClientSession) -> None:
    for path in (ROOT, "/api/v1/performed"):
        async with web.get(f"{path}?{query}") as response:
            assert response.status == 400
            assert "secret" not in await response.text()


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b"{}", "application/dicom+json", 400),
        (b'{"secret": 1}', "application/json; charset=utf-8", 400),
        (b'{"00100010": {"vr": "PN", "Value": [1]}}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b" " * (64 * 1024 + 1), "application/json", 413),
    ],
)
async def test_what_is_no_entry_is_refused(
    body: bytes, content_type: str, status: int, web: aiohttp.ClientSession, tmp_path: Path
) -> None:
    for method, path in (("post", ROOT), ("put", f"{ROOT}/a")):
        async with web.request(method, path, data=BytesIO(body), headers={"Content-Type": content_type}) as response:
            assert response.status == status
            assert response.headers["Content-Type"] == "application/problem+json"
            assert "secret" not in await response.text()
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("name", ["..%2Fx", "%2e%2e", "a%2Fb", ".hidden", "a%00", "%C3%A4", "x" * 200])
async def test_no_name_leads_out_of_the_folder(name: str, web: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with web.put(f"{ROOT}/{name}", json=as_json(scheduled())) as response:
        assert response.status in (400, 404)
    async with web.get(f"{ROOT}/{name}") as response:
        assert response.status in (400, 404)
    assert list(tmp_path.rglob("*.json")) == []


async def test_what_is_missing_is_told(web: aiohttp.ClientSession) -> None:
    async with web.post(ROOT, json=as_json(scheduled(PatientID=None))) as response:
        assert (await response.json())["warnings"] == ["there is no value of PatientID."]


async def test_tenants_have_their_own(web: aiohttp.ClientSession) -> None:
    clinic = {"X-Tenant": "clinic"}
    where = await post(web, as_json(scheduled()), clinic)
    assert await listed(web) == []
    assert await listed(web, headers=clinic) == [where.removeprefix(f"{ROOT}/")]
    async with web.delete(where) as response:
        assert response.status == 404
    async with web.get(ROOT, headers={"X-Tenant": "../clinic"}) as response:
        assert response.status == 400


async def test_what_was_performed_is_shown(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    where = await post(web, as_json(scheduled()))
    await rooms.performed.create("default", "1.2.3", as_json(performed()))
    await rooms.performed.create("default", "1.2.4", as_json(performed(PatientID="P2")))
    async with web.get(where) as response:
        entry = await response.json(content_type=None)
    assert entry["00400100"]["Value"][0]["00400020"]["Value"] == ["STARTED"]
    async with web.get("/api/v1/performed?PatientID=P2") as response:
        assert response.headers["Content-Type"] == "application/dicom+json"
        assert [step["00080018"]["Value"] for step in await response.json(content_type=None)] == [["1.2.4"]]
    async with web.get("/api/v1/performed?limit=1&offset=1") as response:
        assert len(await response.json(content_type=None)) == 1
    await rooms.performed.update("default", "1.2.3", as_json(finished()))
    async with web.get("/api/v1/performed/1.2.3") as response:
        step = await response.json(content_type=None)
    assert step["00400252"]["Value"] == ["COMPLETED"]
    for path, headers in (("9.9", {}), ("1.2.3", {"X-Tenant": "clinic"})):
        async with web.get(f"/api/v1/performed/{path}", headers=headers) as response:
            assert response.status == 404
