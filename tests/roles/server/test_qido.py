from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.corpus import make
from tests.rooms import Rooms

Json = dict[str, Any]
STUDY, SERIES_A, SERIES_B, OTHER = "1.2.10", "1.2.10.1", "1.2.10.2", "1.2.20"


async def fill(rooms: Rooms) -> None:
    """Take in one study of two series (CT, two instances; MR, one) and one of another patient."""
    for series, modality, number in ((SERIES_A, "CT", 1), (SERIES_A, "CT", 2), (SERIES_B, "MR", 1)):
        uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{number}"}
        await rooms.take_in(make(**uids, Modality=modality, InstanceNumber=number, Manufacturer="ACME"))
    other = make(
        StudyInstanceUID=OTHER, PatientName="Müller^Zoë", PatientID="P2", StudyDate="20250505", AccessionNumber="50%_"
    )
    await rooms.take_in(other)


async def get(
    web: aiohttp.ClientSession, path: str, status: int = 200, headers: dict[str, str] | None = None
) -> list[Json]:
    async with web.get(f"/dicomweb{path}", headers=headers) as response:
        assert response.status == status, await response.text()
        if status == 204:
            assert await response.read() == b""
            return []
        assert response.headers["Content-Type"] == "application/dicom+json"
        found: list[Json] = await response.json(content_type=None)
        return found


def values(rows: list[Json], tag: str) -> list[Any]:
    return [row[tag]["Value"][0] for row in rows]


async def test_studies_have_what_the_standard_asks(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    rows = await get(web, "/studies")
    assert values(rows, "0020000D") == [STUDY, OTHER]  # newest first
    first = rows[0]
    assert list(first) == sorted(first)
    assert first["00080061"] == {"vr": "CS", "Value": ["CT", "MR"]}
    assert (first["00201206"]["Value"], first["00201208"]["Value"]) == ([2], [3])
    assert first["00080056"]["Value"] == ["ONLINE"]
    assert first["00081190"]["Value"] == [f"{web._base_url}/dicomweb/studies/{STUDY}"]
    assert first["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    assert Dataset.from_json(first).StudyDescription == "Head CT"
    assert "00080070" not in first
    assert rows[1]["00100010"]["Value"] == [{"Alphabetic": "Müller^Zoë"}]


async def test_series_and_instances(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    rows = await get(web, f"/studies/{STUDY}/series")
    assert (values(rows, "0020000E"), values(rows, "00201209")) == ([SERIES_A, SERIES_B], [2, 1])
    assert values(rows, "0020000D") == [STUDY, STUDY]
    assert "00100010" not in rows[0]
    assert rows[0]["00081190"]["Value"][0].endswith(f"/studies/{STUDY}/series/{SERIES_A}")
    rows = await get(web, f"/studies/{STUDY}/series/{SERIES_A}/instances")
    assert values(rows, "00080018") == [f"{SERIES_A}.1", f"{SERIES_A}.2"]
    assert values(rows, "00280010") == [8, 8]
    assert values(rows, "00083002") == ["1.2.840.10008.1.2.1"] * 2
    assert rows[0]["00081190"]["Value"][0].endswith(f"/series/{SERIES_A}/instances/{SERIES_A}.1")


async def test_relational_searches_bring_the_levels_above(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    (row,) = await get(web, "/series?Modality=MR")
    assert row["00100020"]["Value"] == ["P1"]
    (row,) = await get(web, f"/instances?SOPInstanceUID={SERIES_B}.1")
    assert (row["00100020"]["Value"], row["00080060"]["Value"]) == (["P1"], ["MR"])
    rows = await get(web, f"/studies/{STUDY}/instances")
    assert len(rows) == 3
    assert values(rows, "00080060") == ["CT", "CT", "MR"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("PatientName=*doe*", 1),
        ("00100010=DOE%5EJANE", 1),
        ("PatientName=Doe", 0),
        ("PatientName=jane&fuzzymatching=true", 1),
        ("PatientName=muller*", 1),
        ("PatientName=M%C3%BCller%5EZo%C3%AB", 1),
        ("00100020=*P*", 2),
        ("PatientID=p1", 0),
        ("AccessionNumber=50%25_", 1),
        ("AccessionNumber=50%25*", 1),
        ("AccessionNumber=%25", 0),
        ("AccessionNumber=A_", 0),
        ("ModalitiesInStudy=CT", 1 + 1),
        ("ModalitiesInStudy=MR", 1),
        ("Modality=MR", 1),
        ("SOPClassesInStudy=1.2.840.10008.5.1.4.1.1.2", 2),
        ("StudyDate=20250101-20251231", 1),
        ("StudyDate=20260102-", 1),
        ("StudyDate=-20250505", 1),
        (f"StudyInstanceUID={STUDY}%5C{OTHER}%5C9.9", 2),
        (f"StudyInstanceUID={STUDY},9.9", 1),
        (f"SeriesInstanceUID={SERIES_B}", 1),
        (f"SOPInstanceUID={SERIES_A}.2", 1),
        ("SOPInstanceUID=9.9", 0),
        ("Manufacturer=acme", 1),
        ("PatientName=", 2),
        ("PatientName=*", 2),
        ("limit=1", 1),
        ("limit=0", 0),
        ("offset=1", 1),
        ("offset=2", 0),
        ("limit=1&offset=1", 1),
        ("includefield=all", 2),
        ("includefield=NoSuchThing", 2),
        ("includefield=", 2),
        ("emptyvaluematching=true", 2),
    ],
)
async def test_queries_of_studies(query: str, found: int, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    assert len(await get(web, f"/studies?{query}", 200 if found else 204)) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Manufacturer=ACME", 3),
        ("00080070=ac*", 3),
        ("Manufacturer=ACME&limit=1&offset=1", 1),
        ("Manufacturer=ACME&offset=3", 0),
        ("InstanceNumber=02", 1),
        ("Rows=8", 4),
        ("Rows=9", 0),
        ("SOPClassUID=1.2.840.10008.5.1.4.1.1.2", 4),
        ("RequestAttributesSequence.RequestedProcedureID=x", 0),
    ],
)
async def test_queries_of_instances(query: str, found: int, rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    assert len(await get(web, f"/instances?{query}", 200 if found else 204)) == found


@pytest.mark.parametrize(
    "query",
    [
        "NoSuchKey=secret",
        "limit=secret",
        "limit=-1",
        "offset=x",
        "fuzzymatching=secret",
        "StudyDate=secret-",
        "StudyInstanceUID=1.secret*",
        "&".join(f"PatientID=secret{n}" for n in range(101)),
        "PatientName.CodeValue=secret",
        "RequestAttributesSequence=secret",
        "<script>=secret",
    ],
)
async def test_what_cannot_be_asked(query: str, web: aiohttp.ClientSession) -> None:
    async with web.get(f"/dicomweb/studies?{query}") as response:
        assert response.status == 400
        assert response.headers["Content-Type"] == "application/problem+json"
        text = await response.text()
    assert "secret" not in text
    assert "<" not in text


async def test_the_key_at_fault_is_named(web: aiohttp.ClientSession) -> None:
    async with web.get("/dicomweb/studies?NoSuchKey=1") as response:
        assert "NoSuchKey" in (await response.json(content_type=None))["detail"]


async def test_more_results_and_keys_not_indexed_are_told(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    async with web.get("/dicomweb/studies?limit=1&ExposureTime=5") as response:
        assert response.status == 200
        warning = response.headers["Warning"]
    assert "more results" in warning
    assert "ExposureTime" in warning
    async with web.get("/dicomweb/studies?limit=2") as response:
        assert "Warning" not in response.headers


async def test_include_fields(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    (row,) = await get(
        web, f"/studies/{STUDY}/series?Modality=MR&includefield=00080070%2CSeriesDate&includefield=00100010"
    )
    assert row["00080070"]["Value"] == ["ACME"]
    assert row["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    (row,) = await get(web, f"/studies?StudyInstanceUID={STUDY}&includefield=SOPClassesInStudy")
    assert row["00080062"]["Value"] == ["1.2.840.10008.5.1.4.1.1.2"]
    (row,) = await get(web, f"/instances?SOPInstanceUID={SERIES_B}.1&includefield=all")
    assert {"00080070", "00280101", "00080050"} <= row.keys()


async def test_pages_together_are_the_whole(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    for number in range(7):
        await rooms.take_in(make(StudyInstanceUID=generate_uid(), StudyDate=f"2026010{number % 3 + 1}"))
    whole = values(await get(web, "/studies"), "0020000D")
    pages = []
    for offset in range(0, 9, 2):
        pages += values(await get(web, f"/studies?limit=2&offset={offset}", 200 if offset < 7 else 204), "0020000D")
    assert pages == whole


async def test_tenants_see_their_own(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await rooms.take_in(make(StudyInstanceUID=STUDY), tenant="one")
    assert await get(web, "/studies", 204) == []
    assert len(await get(web, "/studies", headers={"x-tenant": "one"})) == 1
    await get_problem(web, "/studies", 400, {"x-tenant": "../one"})


async def get_problem(web: aiohttp.ClientSession, path: str, status: int, headers: dict[str, str]) -> None:
    async with web.get(f"/dicomweb{path}", headers=headers) as response:
        assert response.status == status
        assert (await response.json(content_type=None))["status"] == status


async def test_what_is_no_json_is_not_acceptable(web: aiohttp.ClientSession) -> None:
    await get_problem(web, "/studies", 406, {"Accept": "text/csv"})


async def test_a_host_that_is_none_makes_no_url(rooms: Rooms, web: aiohttp.ClientSession) -> None:
    await fill(rooms)
    for host, root in (('evil"><script>', "/dicomweb"), ("pacs.example:8443", "http://pacs.example:8443/dicomweb")):
        (row,) = await get(web, f"/studies?StudyInstanceUID={STUDY}", headers={"Host": host})
        assert row["00081190"]["Value"] == [f"{root}/studies/{STUDY}"]
