"""What every database promises; the one in memory is what the others must agree with."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Level
from dicomnode.model.entry import Counts, Entry, Fate, Policy
from dicomnode.model.query import Found, Location, NamePattern, OneOf, Query, Range, Wildcard
from dicomnode.ports.database import Database
from dicomnode.ports.plugin import NoOptions
from dicomnode_memory.database import MemoryDatabase
from tests.contracts.conftest import make
from tests.contracts.entries import CT, MR, entries, entry, queries

KEEP, REPLACE = Policy.KEEP_FIRST, Policy.REPLACE


async def find(
    database: Database, level: Level = Level.STUDY, **matches: OneOf | Wildcard | Range | NamePattern
) -> list[Found]:
    return list(await database.find(Query("default", level, matches)))


def values(found: str, tag: str) -> list[str]:
    told: list[str] = json.loads(found).get(tag, {}).get("Value", [])
    return told


async def places(database: Database) -> list[Location]:
    return [location async for location in database.keys()]  # noqa: SIM118 -- no mapping


async def keys(database: Database, prefix: str = "") -> list[str]:
    return [location.key async for location in database.keys(prefix)]


async def test_a_new_instance_is_found_and_located(database: Database) -> None:
    one = entry(PatientID="p", PatientName="doe^john", StudyDate="20240102", Modality="CT", InstanceNumber="7")
    assert list(await database.index([one], KEEP)) == [Fate.NEW]
    (study,) = await find(database, StudyInstanceUID=OneOf(("1.1",)))
    assert (study.patient, study.study) == (one.fragments.patient, one.fragments.study)
    assert (study.modalities, study.sop_classes) == (("CT",), (CT,))
    assert (study.series_count, study.instance_count) == (1, 1)
    (series,) = await find(database, Level.SERIES)
    assert (series.series, series.instance_count) == (one.fragments.series, 1)
    (instance,) = await find(database, Level.INSTANCE)
    assert (instance.instance, instance.transfer_syntax_uid) == (one.fragments.instance, one.transfer_syntax_uid)
    (patient,) = await find(database, Level.PATIENT)
    assert (patient.studies, patient.series_count, patient.instance_count) == (1, 1, 1)
    assert patient.study == "{}"
    (location,) = await database.locate("default", "1.1")
    for name in location.__struct_fields__:
        assert getattr(location, name) == getattr(one, name)
    assert await database.counts() == Counts(1, 1, 1, 1, 1000)


async def test_the_same_reception_again(database: Database) -> None:
    one = entry()
    assert list(await database.index([one, one], KEEP)) == [Fate.NEW, Fate.AGAIN]
    assert list(await database.index([one], REPLACE)) == [Fate.AGAIN]
    assert await database.counts() == Counts(1, 1, 1, 1, 1000)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("together", [True, False])
async def test_an_equal_object_is_a_duplicate_and_not_remembered(
    database: Database, policy: Policy, together: bool
) -> None:
    one, two = entry(key="k/1"), entry(key="k/2", size=1050, offset=150)
    if together:
        assert list(await database.index([one, two], policy)) == [Fate.NEW, Fate.DUPLICATE]
    else:
        await database.index([one], policy)
        assert list(await database.index([two], policy)) == [Fate.DUPLICATE]
    assert await keys(database) == ["k/1"]
    assert list(await database.index([two], policy)) == [Fate.DUPLICATE]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("policy", "fate", "served"), [(KEEP, Fate.ASIDE, "k/1"), (REPLACE, Fate.REPLACED, "k/2")])
async def test_a_different_object_is_kept_and_one_is_served(
    database: Database, policy: Policy, fate: Fate, served: str, together: bool
) -> None:
    one, two = entry(key="k/1", content="a", size=500), entry(key="k/2", content="b", size=700)
    if together:
        assert list(await database.index([one, two], policy)) == [Fate.NEW, fate]
    else:
        await database.index([one], policy)
        assert list(await database.index([two], policy)) == [fate]
    assert await keys(database) == ["k/1", "k/2"]
    assert [location.key for location in await database.locate("default", "1.1")] == [served]
    assert await database.counts() == Counts(1, 1, 1, 1, 1200)
    assert list(await database.index([one, two], policy)) == [Fate.AGAIN, Fate.AGAIN]
    third = entry(key="k/3", content="a", size=500)
    assert list(await database.index([third], policy)) == [Fate.DUPLICATE], "equal to one that may be aside"


async def test_an_instance_that_moves_takes_its_counts_along(database: Database) -> None:
    one = entry("1.1", "1.1.1", "5.1", content="a", PatientID="p1", Modality="CT")
    two = entry("1.2", "1.2.1", "5.1", content="b", PatientID="p2", Modality="MR", sop_class=MR)
    await database.index([one], REPLACE)
    assert list(await database.index([two], REPLACE)) == [Fate.REPLACED]
    (study,) = await find(database)
    assert values(study.study, "0020000D") == []
    assert (study.modalities, study.sop_classes, study.instance_count) == (("MR",), (MR,), 1)
    assert [len(await find(database, level)) for level in Level] == [1, 1, 1, 1]
    assert await database.counts() == Counts(1, 1, 1, 1, 2000)
    assert await database.locate("default", "1.1") == []
    assert len(await keys(database)) == 2
    back = entry("1.1", "1.1.1", "5.1", content="c", PatientID="p1")
    assert list(await database.index([back], REPLACE)) == [Fate.REPLACED]
    assert await database.counts() == Counts(1, 1, 1, 1, 3000)


async def test_keep_first_fills_in_what_was_empty(database: Database) -> None:
    first = entry(sop="5.1", PatientID="p", PatientName="", StudyDescription="one", Modality="CT")
    second = entry(sop="5.2", PatientID="p", PatientName="doe", StudyDescription="two", AccessionNumber="a")
    await database.index([first], KEEP)
    await database.index([second], KEEP)
    for found in (await find(database, PatientName=OneOf(("doe",))))[0], (await find(database, Level.INSTANCE))[0]:
        assert values(found.patient, "00100010") == ["doe"]
        assert values(found.study, "00081030") == ["one"]
        assert values(found.study, "00080050") == ["a"]
    assert await find(database, StudyDescription=OneOf(("two",))) == []
    assert len(await find(database, Level.PATIENT, PatientName=OneOf(("doe",)))) == 1


async def test_replace_takes_the_newest(database: Database) -> None:
    first = entry(sop="5.1", PatientID="p", PatientName="old", StudyDescription="one", StudyDate="20200101")
    second = entry(sop="5.2", PatientID="p", PatientName="new", StudyDate="20240101")
    await database.index([first, second], REPLACE)
    (study,) = await find(database, StudyDate=Range("20240101", ""))
    assert (study.patient, study.study) == (second.fragments.patient, second.fragments.study)
    assert await find(database, StudyDescription=OneOf(("one",))) == []
    third = msgspec.structs.replace(first, sop_uid="5.3", key="k/3")
    await database.index([third], REPLACE)
    assert (await find(database))[0].study == first.fragments.study


async def test_patients_are_told_apart_by_id_and_issuer(database: Database) -> None:
    await database.index(
        [
            entry("1.1", PatientID="p", IssuerOfPatientID="a"),
            entry("1.2", PatientID="p", IssuerOfPatientID="b"),
            entry("1.3", PatientID="p", IssuerOfPatientID="b"),
            entry("1.4", PatientName="nobody"),
            entry("1.5", PatientName="nobody"),
            entry("1.6", PatientID="p", IssuerOfPatientID="a", tenant="other"),
        ],
        KEEP,
    )
    found = await find(database, Level.PATIENT)
    assert sorted(patient.studies for patient in found) == [1, 1, 1, 2]
    assert (await database.counts()).patients == 5


async def test_of_another_patient_nothing_goes_into_a_kept_study(database: Database) -> None:
    await database.index([entry(sop="5.1", PatientID="p1")], KEEP)
    await database.index([entry(sop="5.2", PatientID="p2", PatientName="doe", PatientSex="F")], KEEP)
    (study,) = await find(database)
    assert values(study.patient, "00100010") == []
    assert (await database.counts()).patients == 1


async def test_tenants_are_apart(database: Database) -> None:
    mine, theirs = entry(), entry(tenant="other")
    assert list(await database.index([mine, theirs], KEEP)) == [Fate.NEW, Fate.NEW]
    for level in Level:
        assert len(await find(database, level)) == 1
        assert await database.find(Query("nobody", level)) == []
    assert [place.key for place in await database.locate("other", "", sop_uid=theirs.sop_uid)] == [theirs.key]
    assert await database.locate("nobody", "1.1") == []


async def test_order_and_pages(database: Database) -> None:
    dates = {"1.1": "20240101", "1.2": "20250101", "1.3": "", "1.4": "20240101", "1.10": "20250101"}
    for study, date in dates.items():
        await database.index([entry(study, StudyDate=date, StudyTime="1" * 6 if study == "1.4" else "")], KEEP)
    found = await find(database)
    order = [(await database.find(Query("default", Level.STUDY, after=row.cursor, limit=1))) for row in found]
    assert [values(row.study, "00080020") for row in found] == [["20250101"]] * 2 + [["20240101"]] * 2 + [[]]
    assert [row.cursor for row in found] == sorted(row.cursor for row in found)
    assert [rows[0] if rows else None for rows in order] == [*found[1:], None]
    assert await database.find(Query("default", Level.STUDY, limit=2, offset=2)) == found[2:4]
    assert await database.find(Query("default", Level.STUDY, limit=0)) == []


async def test_instances_and_locations_are_ordered_by_number(database: Database) -> None:
    numbers = [("2", "10"), ("2", "9"), ("10", "1"), ("", "1"), ("2", ""), ("-1", "3")]
    batch = [
        entry("1.1", f"7.{ord(series[0]) if series else 9}", f"5.{place}", SeriesNumber=series, InstanceNumber=number)
        for place, (series, number) in enumerate(numbers)
    ]
    batch[2] = entry("1.1", "7.10", "5.2", SeriesNumber="10", InstanceNumber="1")
    await database.index(batch, KEEP)
    expected = ["5.5", "5.1", "5.0", "5.4", "5.2", "5.3"]
    assert [place.sop_uid for place in await database.locate("default", "1.1")] == expected
    found = await find(database, Level.INSTANCE)
    cursors = [row.cursor for row in found]
    assert cursors == sorted(set(cursors))
    paged: list[Found] = []
    while rows := await database.find(
        Query("default", Level.INSTANCE, limit=2, after=paged[-1].cursor if paged else "")
    ):
        paged.extend(rows)
    assert paged == found
    assert len(await database.locate("default", "1.1", "7.10")) == 1
    assert len(await database.locate("default", "1.1", "7.10", "5.2")) == 1
    assert await database.locate("default", "1.1", "7.10", "5.1") == []


async def test_locate_needs_a_study_or_an_instance(database: Database) -> None:
    with pytest.raises(BadRequest):
        await database.locate("default", "", "1.1.1")


@pytest.mark.parametrize(("level", "keyword"), [(0, "StudyDate"), (1, "Modality"), (1, "Rows"), (1, "x"), (0, "x')--")])
async def test_a_key_that_is_no_column_is_refused(database: Database, level: int, keyword: str) -> None:
    with pytest.raises(BadRequest):
        await find(database, Level(level), **{keyword: OneOf(("1",))})


@pytest.mark.parametrize("odd", ["'; DROP TABLE study; --", "%", "_", "\\", '"', "a[", "[a-z]", "[^x]", "]", "*"])
async def test_odd_characters_match_themselves_only(database: Database, odd: str) -> None:
    await database.index([entry("1.1", AccessionNumber=odd), entry("1.2", AccessionNumber="az")], KEEP)
    assert len(await find(database, AccessionNumber=OneOf((odd,)))) == 1
    if odd != "*":
        assert len(await find(database, AccessionNumber=Wildcard(odd))) == 1
        assert len(await find(database, AccessionNumber=Wildcard(f"*{odd}*"))) == 1


async def test_a_wildcard_made_to_take_for_ever_does_not(database: Database) -> None:
    await database.index([entry(StudyDescription="a" * 64, PatientName="a" * 64)], KEEP)
    evil = "*a" * 5000 + "b"
    assert await find(database, StudyDescription=Wildcard(evil)) == []
    assert await find(database, PatientName=NamePattern((evil,))) == []
    assert len(await find(database, StudyDescription=Wildcard("*a" * 30))) == 1


async def test_ten_thousand_uids(database: Database) -> None:
    await database.index([entry(f"1.{number}") for number in range(20)], KEEP)
    asked = tuple(f"1.{number}" for number in range(10, 10_010))
    assert len(await find(database, StudyInstanceUID=OneOf(asked))) == 10


async def test_keys_by_prefix(database: Database) -> None:
    names = ["a/1", "a/2", "a/10", "b/1"]
    await database.index([entry(sop=f"5.{place}", key=key) for place, key in enumerate(names)], KEEP)
    await database.index([entry(sop="5.0", key="a/0", content="different")], KEEP)
    assert await keys(database) == ["a/0", "a/1", "a/10", "a/2", "b/1"]
    assert await keys(database, "a/1") == ["a/1", "a/10"]
    assert await keys(database, "c") == []


async def test_a_large_batch_and_many_keys(database: Database) -> None:
    batch = [entry(sop=f"5.{number}", InstanceNumber=str(number)) for number in range(2500)]
    assert set(await database.index(batch, KEEP)) == {Fate.NEW}
    assert [place.sop_uid for place in await database.locate("default", "1.1")] == [one.sop_uid for one in batch]
    assert await keys(database) == sorted(one.key for one in batch)
    assert await database.counts() == Counts(1, 1, 1, 2500, 2_500_000)


async def test_nothing_is_nothing(database: Database) -> None:
    assert list(await database.index([], KEEP)) == []
    assert [await find(database, level) for level in Level] == [[], [], [], []]
    assert await database.counts() == Counts(0, 0, 0, 0, 0)
    assert await keys(database) == []
    await database.ping()


async def test_readers_see_whole_batches_only(database: Database) -> None:
    async def write() -> None:
        for number in range(20):
            await database.index([entry(sop=f"5.{number}.{part}") for part in range(5)], KEEP)

    writing = asyncio.create_task(write())
    while not writing.done():
        await asyncio.sleep(0)
        for study in await find(database):
            assert study.instance_count % 5 == 0
    await writing
    assert (await database.counts()).instances == 100


async def _agree(name: str, batches: list[tuple[list[Entry], Policy]], asked: list[Query]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        truth = MemoryDatabase(NoOptions(), Path(folder))
        async with make("database", name, Path(folder)) as database:
            for batch, policy in batches:
                assert list(await database.index(batch, policy)) == list(await truth.index(batch, policy))
                assert await database.counts() == await truth.counts()
            assert await places(database) == await places(truth)
            for level in Level:
                for tenant in ("default", "other"):
                    everything = Query(tenant, level)
                    assert list(await database.find(everything)) == list(await truth.find(everything))
            for query in asked:
                found, expected = list(await database.find(query)), list(await truth.find(query))
                assert found == expected, query
                assert [row.cursor for row in found] == sorted(row.cursor for row in found)
                if found:
                    behind = msgspec.structs.replace(query, after=found[0].cursor, offset=1)
                    assert list(await database.find(behind)) == list(await truth.find(behind))


@given(
    st.lists(st.tuples(st.lists(entries(), max_size=8), st.sampled_from(Policy)), max_size=4),
    st.lists(queries(), max_size=8),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_agrees_with_the_one_in_memory(
    database_name: str, batches: list[tuple[list[Entry], Policy]], asked: list[Query]
) -> None:
    if database_name == "memory":
        asked = asked[:1]
    asyncio.run(_agree(database_name, batches, asked))
