from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Level
from dicomnode.services import find as module
from dicomnode.services.find import Question
from tests.corpus import make
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param, most=5) as rooms:
        yield rooms


async def fill(rooms: Rooms, studies: int, instances: int = 1) -> None:
    for study in range(studies):
        for n in range(instances):
            series = f"1.{study}.{n % 2}"
            await rooms.take_in(
                make(
                    StudyInstanceUID=f"1.{study}",
                    SeriesInstanceUID=series,
                    SOPInstanceUID=f"{series}.{n}",
                    InstanceNumber=n,
                    Manufacturer=f"M{n}",
                    StudyDate=f"202601{study + 1:02}",
                )
            )


def ask(level: Level, *keys: tuple[str, str], limit: int | None = None, offset: int = 0) -> Question:
    return Question("default", level, keys, limit=limit, offset=offset)


async def test_what_was_acknowledged_is_seen_at_once(rooms: Rooms) -> None:
    for number in range(5):
        await rooms.take_in(make(StudyInstanceUID=f"1.{number}"))
        assert len((await rooms.find.search(ask(Level.STUDY))).found) == number + 1


async def test_no_more_than_the_most_and_it_is_told(rooms: Rooms) -> None:
    await fill(rooms, 7)
    answer = await rooms.find.search(ask(Level.STUDY))
    assert (len(answer.found), answer.more) == (5, True)
    answer = await rooms.find.search(ask(Level.STUDY, limit=1000))
    assert (len(answer.found), answer.more) == (5, True)
    answer = await rooms.find.search(ask(Level.STUDY, offset=5))
    assert (len(answer.found), answer.more) == (2, False)
    answer = await rooms.find.search(ask(Level.STUDY, limit=2, offset=5))
    assert (len(answer.found), answer.more) == (2, False)
    assert (await rooms.find.search(ask(Level.STUDY, limit=0))).found == ()


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_residual_keys_page_on_until_enough_fits(
    page: int, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", page)
    await fill(rooms, 2, 8)
    answer = await rooms.find.search(ask(Level.INSTANCE, ("Manufacturer", "M?"), offset=3, limit=4))
    assert (len(answer.found), answer.more) == (4, True)
    answer = await rooms.find.search(ask(Level.SERIES, ("Manufacturer", "m1")))
    assert len(answer.found) == 2
    answer = await rooms.find.search(ask(Level.STUDY, ("Manufacturer", "m1"), ("StudyInstanceUID", "1.1\\1.7")))
    assert len(answer.found) == 1


async def test_work_is_bounded(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SCANNED", 4)
    monkeypatch.setattr(module, "_PAGE", 2)
    await fill(rooms, 3, 4)
    for level, key in (
        (Level.INSTANCE, "Manufacturer"),
        (Level.STUDY, "Manufacturer"),
        (Level.STUDY, "InstanceNumber"),
    ):
        with pytest.raises(BadRequest, match="StudyDate"):
            await rooms.find.search(ask(level, (key, "9*" if key == "Manufacturer" else ""), ("SliceThickness", "7")))
    monkeypatch.setattr(module, "MOST_SCANNED", 100)
    monkeypatch.setattr(module, "MOST_UIDS", 2)
    with pytest.raises(BadRequest, match="StudyDate"):
        await rooms.find.search(ask(Level.STUDY, ("InstanceNumber", "1")))


async def test_keys_of_levels_below_find_what_contains_them(rooms: Rooms) -> None:
    await fill(rooms, 3, 4)
    cases = [
        (Level.STUDY, ("SOPInstanceUID", "1.1.0.2"), 1),
        (Level.STUDY, ("SeriesInstanceUID", "1.1.0\\1.2.1"), 2),
        (Level.SERIES, ("InstanceNumber", "3"), 3),
        (Level.SERIES, ("SOPInstanceUID", "9"), 0),
        (Level.STUDY, ("Rows", "8"), 3),
        (Level.STUDY, ("Rows", "9"), 0),
    ]
    for level, key, count in cases:
        assert len((await rooms.find.search(ask(level, key))).found) == count, key


async def test_the_study_of_the_path_and_a_key_both_count(rooms: Rooms) -> None:
    await fill(rooms, 3, 2)
    both = Question("default", Level.SERIES, (("StudyInstanceUID", "1.1"),), study_uid="1.2")
    assert (await rooms.find.search(both)).found == ()
    one = Question(
        "default", Level.INSTANCE, (("SeriesInstanceUID", "1.2.0\\1.2.1"),), study_uid="1.2", series_uid="1.2.1"
    )
    assert len((await rooms.find.search(one)).found) == 1


async def test_the_same_key_twice_must_fit_twice(rooms: Rooms) -> None:
    await fill(rooms, 3)
    answer = await rooms.find.search(ask(Level.STUDY, ("StudyDate", "20260102-"), ("StudyDate", "-20260102")))
    assert len(answer.found) == 1


async def test_what_is_not_indexed_is_told(rooms: Rooms) -> None:
    await fill(rooms, 1)
    answer = await rooms.find.search(ask(Level.STUDY, ("ExposureTime", "5"), ("00091001", "x"), ("KVP", "")))
    assert answer.unmatched == ("ExposureTime", "00091001")
    assert len(answer.found) == 1


async def test_counts_know_no_limit(rooms: Rooms) -> None:
    await fill(rooms, 7, 2)
    assert await rooms.find.count(ask(Level.STUDY, limit=1, offset=3)) == 7
    assert await rooms.find.count(ask(Level.INSTANCE, ("Manufacturer", "M1"))) == 7
    assert await rooms.find.count(ask(Level.STUDY, ("SOPInstanceUID", "9"))) == 0


async def test_patients(rooms: Rooms) -> None:
    await fill(rooms, 2)
    answer = await rooms.find.search(ask(Level.PATIENT, ("PatientName", "doe*")))
    assert [found.studies for found in answer.found] == [2]
    with pytest.raises(BadRequest):
        await rooms.find.search(ask(Level.PATIENT, ("StudyDate", "20260101")))


@pytest.mark.parametrize(
    "question", [ask(Level.STUDY, limit=-1), ask(Level.STUDY, offset=-1), ask(Level.STUDY, ("x", ""))]
)
async def test_what_cannot_be_asked(question: Question, rooms: Rooms) -> None:
    with pytest.raises(BadRequest):
        await rooms.find.search(question)


async def test_a_stream_has_no_limit(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    monkeypatch.setattr(module, "MOST_SCANNED", 4)
    await fill(rooms, 11)
    stream = await rooms.find.stream(ask(Level.STUDY, ("ExposureTime", "1"), limit=1))
    assert len({row.cursor async for row in stream.found}) == 11
    assert stream.unmatched == ("ExposureTime",)
    stream = await rooms.find.stream(ask(Level.STUDY, ("SOPInstanceUID", "9")))
    assert [row async for row in stream.found] == []
    stream = await rooms.find.stream(ask(Level.SERIES, ("Manufacturer", "nobody")))
    with pytest.raises(BadRequest, match="StudyDate"):
        assert [row async for row in stream.found] == []


@pytest.mark.parametrize(
    ("date", "time", "apart", "together"),
    [
        ("20260102-20260104", "10-09", 0, ["1.1", "1.2", "1.3"]),
        ("20260102-20260104", "10-", 2, ["1.1", "1.2", "1.3"]),
        ("-20260102", "-11", 1, ["1.0"]),
        ("20260103-", "10-", 1, ["1.2", "1.3"]),
        ("20260103", "10-13", 1, ["1.2"]),
        ("20260102-20260103", "120000.5", 1, ["1.2"]),
    ],
)
async def test_dates_and_times_together(date: str, time: str, apart: int, together: list[str], rooms: Rooms) -> None:
    for study, at in enumerate(("090000", "150000", "120000.5", ""), 1):
        await rooms.take_in(make(StudyInstanceUID=f"1.{study - 1}", StudyDate=f"202601{study:02}", StudyTime=at))
    question = ask(Level.STUDY, ("StudyDate", date), ("StudyTime", time))
    found = (await rooms.find.search(msgspec.structs.replace(question, combined=True))).found
    assert sorted(msgspec.json.decode(row.study)["0020000D"]["Value"][0] for row in found) == together, found
    assert len((await rooms.find.search(question)).found) == apart
