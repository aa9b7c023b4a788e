from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dicomnode.model.warehouse import ACCESS, OBJECT, STATE
from dicomnode.services.statistics import GROUPINGS, Statistics
from dicomnode_memory.warehouse import MemoryWarehouse
from tests.contracts.rows import JPEG, access_row, object_row, state_row
from tests.rooms import Rooms, open_door

MARKUP = "<b onload=x>&\"'"


def day(ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=ago)).strftime("%Y-%m-%dT12:00:00.000+00:00")


@pytest.fixture
async def web(rooms: Rooms, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    warehouse = MemoryWarehouse(MemoryWarehouse.Options(), tmp_path)
    await warehouse.record(
        OBJECT,
        [
            object_row(1, created_time=day(1), file_size=100),
            object_row(2, created_time=day(1), file_size=200, source_ae=MARKUP[:16]),
            object_row(3, created_time=day(2), file_size=1000, transfer_syntax_uid=JPEG, study_uid="1.2"),
            object_row(4, created_time=day(400), file_size=7),
            object_row(5, created_time=day(1), file_size=10**6, tenant_id="other", source_ae="THEIRS"),
        ],
    )
    await warehouse.record(STATE, [state_row("1.1.1"), state_row("1.2.1", modality="MR", study_uid="1.2")])
    await warehouse.record(
        ACCESS,
        [
            access_row(1, timestamp=day(1), status=404),
            access_row(2, timestamp=day(1), user=MARKUP),
            access_row(3, timestamp=day(1), tenant_id="other", user="theirs"),
        ],
    )
    statistics = Statistics(warehouse)
    async with open_door(rooms, statistics=statistics) as server, aiohttp.ClientSession(server.address) as session:
        yield session


async def counted(web: aiohttp.ClientSession, query: str, **headers: str) -> Any:
    async with web.get(f"/api/v1/statistics?{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        return await response.json()


async def test_by_day_the_newest_first(web: aiohttp.ClientSession) -> None:
    told = await counted(web, "")
    assert told["by"] == "day"
    assert [row["label"] for row in told["rows"]] == [day(ago)[:10] for ago in (1, 2, 400)]
    assert told["rows"][0] == {"label": day(1)[:10], "studies": 1, "objects": 2, "bytes": 300}
    assert (told["labels"], told["totals"]["objects"], told["totals"]["bytes"]) == (3, 4, 1307)


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ("by=modality", ["MR", "CT"]),
        ("by=ae_title", ["CT1", MARKUP[:16]]),
        ("by=transfer_syntax", [JPEG, "1.2.840.10008.1.2.1"]),
        ("by=user", [MARKUP, "jane"]),
        ("by=route", ["/dicomweb/studies"]),
        ("by=day&limit=1", [day(1)[:10]]),
        (f"by=day&since={day(2)[:10]}", [day(1)[:10], day(2)[:10]]),
        (f"by=day&until={day(1)[:10]}", [day(2)[:10], day(400)[:10]]),
        (f"by=day&since={day(2)[:10].replace('-', '')}&until={day(1)[:10]}", [day(2)[:10]]),
        ("by=day&since=2999-01-01", []),
    ],
)
async def test_by_everything_and_between_days(query: str, labels: list[str], web: aiohttp.ClientSession) -> None:
    assert [row["label"] for row in (await counted(web, query))["rows"]] == labels


async def test_totals_are_of_all_also_of_what_is_not_shown(web: aiohttp.ClientSession) -> None:
    told = await counted(web, "by=day&limit=1")
    assert (len(told["rows"]), told["labels"], told["totals"]["objects"]) == (1, 3, 4)
    told = await counted(web, "by=user")
    assert (told["totals"]["requests"], told["totals"]["failures"], told["totals"]["bytes"]) == (2, 1, 600)
    assert told["totals"]["seconds"] == 0.025


async def test_a_tenant_sees_its_own(web: aiohttp.ClientSession) -> None:
    for by in GROUPINGS:
        assert "heirs" not in str(await counted(web, f"by={by}")).lower()
    told = await counted(web, "by=ae_title", **{"X-Tenant": "other"})
    assert [row["label"] for row in told["rows"]] == ["THEIRS"]
    assert (await counted(web, "by=user", **{"X-Tenant": "third"}))["rows"] == []
    async with web.get("/statistics", headers={"X-Tenant": "other"}) as response:
        page = await response.text()
    assert "THEIRS" in page
    assert "CT1" not in page


@pytest.mark.parametrize(
    "query",
    [
        "by=patient",
        "by=",
        "since=yesterday",
        "until=2026-02-30",
        "limit=0",
        "limit=-1",
        "limit=10001",
        "limit=x",
        "limit=" + "9" * 5000,
        "PatientName=CANARY",
        "tenant=other",
        "since=%00",
    ],
)
async def test_what_is_no_question_is_refused(query: str, web: aiohttp.ClientSession) -> None:
    async with web.get(f"/api/v1/statistics?{query}") as response:
        assert response.status == 400
        assert "CANARY" not in await response.text()


async def test_without_a_warehouse_it_says_so(rooms: Rooms) -> None:
    async with open_door(rooms) as server, aiohttp.ClientSession(server.address) as web:
        for path in ("/api/v1/statistics", "/statistics"):
            async with web.get(path) as response:
                assert response.status == 404
                assert "warehouse" in await response.text()


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "style":
            self.style += data


async def test_the_page_needs_nothing_that_its_policy_forbids(web: aiohttp.ClientSession) -> None:
    async with web.get("/statistics") as response:
        assert response.status == 200
        policy, text = response.headers["Content-Security-Policy"], await response.text()
    page = Page()
    page.feed(text)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "img", "link", "iframe", "object", "b"} & set(names)
    assert not [attrs for _, attrs in page.tags if any(name == "style" or name.startswith("on") for name in attrs)]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    digest = re.search(r"'sha256-([^']+)'", policy)
    assert digest
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert base64.b64decode(digest[1]) == hashlib.sha256(style.encode()).digest()
    assert names.count("h2") == len(GROUPINGS)


async def test_labels_of_strangers_are_text(web: aiohttp.ClientSession) -> None:
    async with web.get("/statistics") as response:
        text = await response.text()
    assert "&lt;b onload=x&gt;" in text
    assert "<b onload" not in text


async def test_the_page_shows_the_last_days_or_those_that_are_asked_for(web: aiohttp.ClientSession) -> None:
    async with web.get("/statistics") as response:
        recent = await response.text()
    async with web.get("/statistics?since=&until=") as response:
        all_of_it = await response.text()
    assert day(1)[:10] in recent
    assert f"<td>{day(400)[:10]}</td>" not in recent
    assert f"<td>{day(400)[:10]}</td>" in all_of_it
    assert "JPEG Baseline (Process 1)" in recent
    async with web.get("/statistics?since=no") as response:
        assert response.status == 400


async def test_an_empty_warehouse_has_a_page_too(rooms: Rooms, tmp_path: Path) -> None:
    statistics = Statistics(MemoryWarehouse(MemoryWarehouse.Options(), tmp_path))
    async with (
        open_door(rooms, statistics=statistics) as server,
        aiohttp.ClientSession(server.address) as web,
        web.get("/statistics") as response,
    ):
        assert response.status == 200
        assert (await response.text()).count("nothing") == len(GROUPINGS)
