"""What every warehouse promises; the one in memory is what the others must agree with."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomnode.errors import ConfigError, Unavailable
from dicomnode.model.messages import DicomObjectMeta, DicomStateMeta, WadoAccessLog
from dicomnode.model.warehouse import (
    ACCESS,
    IMAGE,
    OBJECT,
    STATE,
    TABLES,
    AccessGrouping,
    Grouping,
    Holding,
    Kind,
    Span,
    Table,
    Use,
)
from dicomnode.ports.plugin import NoOptions
from dicomnode.ports.warehouse import Warehouse
from dicomnode_memory.warehouse import MemoryWarehouse
from tests.contracts.conftest import make
from tests.contracts.rows import (
    EXPLICIT,
    HARD_TEXTS,
    JPEG,
    access_row,
    access_rows,
    consistent,
    filled,
    image_row,
    object_row,
    object_rows,
    state_row,
    state_rows,
    trace,
)

DAY, MODALITY, AE_TITLE = Grouping.DAY, Grouping.MODALITY, Grouping.AE_TITLE
USER, ROUTE = AccessGrouping.USER, AccessGrouping.ROUTE
ALL = Span()
NONE = {table.name: 0 for table in TABLES}


async def held(warehouse: Warehouse, by: Grouping = AE_TITLE, span: Span = ALL, most: int = 1000) -> list[Holding]:
    return list(await warehouse.holdings(by, span, most))


async def used(warehouse: Warehouse, by: AccessGrouping = USER, span: Span = ALL, most: int = 1000) -> list[Use]:
    return list(await warehouse.accesses(by, span, most))


async def keys(warehouse: Warehouse, prefix: str = "") -> list[str]:
    return [key async for key in warehouse.keys(prefix)]


async def count(warehouse: Warehouse, table: Table) -> int:
    return (await warehouse.counts())[table.name]


def test_the_rows_of_these_tests_have_every_column() -> None:
    for table, row in zip(TABLES, (object_row(), state_row(), image_row(), access_row()), strict=True):
        assert {column.name for column in table.columns} <= set(row.__struct_fields__)


async def test_an_empty_warehouse_answers(warehouse: Warehouse) -> None:
    await warehouse.ping()
    assert dict(await warehouse.counts()) == NONE
    for by in Grouping:
        assert await held(warehouse, by) == []
        assert await held(warehouse, by, Span("default", "2026-01-01", "2026-02-01")) == []
    for asked in AccessGrouping:
        assert await used(warehouse, asked) == []
    assert await keys(warehouse) == []
    assert await keys(warehouse, "default/") == []


async def test_nothing_to_record_is_no_harm(warehouse: Warehouse) -> None:
    for table in TABLES:
        await warehouse.record(table, [])
    assert dict(await warehouse.counts()) == NONE


async def test_rows_of_each_table_are_counted(warehouse: Warehouse) -> None:
    await warehouse.record(OBJECT, [object_row(1), object_row(2), object_row(3, tenant_id="other")])
    await warehouse.record(STATE, [state_row("1.1.1"), state_row("1.1.2")])
    await warehouse.record(IMAGE, [image_row(number) for number in range(4)])
    await warehouse.record(ACCESS, [access_row(1)])
    assert dict(await warehouse.counts()) == dict(zip(NONE, (3, 2, 4, 1), strict=True))


@pytest.mark.parametrize("together", [True, False])
async def test_a_row_recorded_again_changes_nothing(warehouse: Warehouse, together: bool) -> None:
    for table, row in zip(TABLES, (object_row(), state_row(), image_row(), access_row()), strict=True):
        for rows in [[row, row]] if together else [[row], [row]]:
            await warehouse.record(table, rows)
    assert dict(await warehouse.counts()) == dict.fromkeys(NONE, 1)
    assert await held(warehouse) == [Holding("CT1", 1, 1, 1000)]
    assert await used(warehouse) == [Use("jane", 1, 0, 300, 0.0125)]
    assert await keys(warehouse) == [object_row().file_path]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("turned", [True, False])
async def test_the_greatest_version_counts(warehouse: Warehouse, together: bool, turned: bool) -> None:
    old = object_row(file_size=1, source_ae="OLD", updated_time="2026-01-02T03:04:05.678+00:00")
    new = object_row(file_size=2, source_ae="NEW", updated_time="2026-01-02T03:04:05.679Z")
    rows = [new, old] if turned else [old, new]
    for batch in [rows] if together else [[row] for row in rows]:
        await warehouse.record(OBJECT, batch)
    assert await held(warehouse) == [Holding("NEW", 1, 1, 2)]


async def test_a_row_without_a_version_is_the_oldest(warehouse: Warehouse) -> None:
    await warehouse.record(OBJECT, [object_row(source_ae="NEW")])
    await warehouse.record(OBJECT, [object_row(source_ae="OLD", updated_time="")])
    assert await held(warehouse) == [Holding("NEW", 1, 1, 1000)]
    await warehouse.record(OBJECT, [object_row(2, source_ae="NONE", updated_time="")])
    assert await count(warehouse, OBJECT) == 2


async def test_a_column_that_a_row_does_not_name_is_empty(warehouse: Warehouse) -> None:
    made = {"tenant_id": "default", "created_time": "2026-01-02T03:04:05Z", "unknown": {"what": ["ever"]}}
    brief = msgspec.defstruct("brief", ["trace_id", *made])
    await warehouse.record(OBJECT, [brief(trace(1), **made), brief(trace(2), **made)])
    assert await held(warehouse) == [Holding("", 1, 2, 0)]
    assert await held(warehouse, Grouping.TRANSFER_SYNTAX) == [Holding("", 1, 2, 0)]
    assert await held(warehouse, DAY) == [Holding("2026-01-02", 1, 2, 0)]


async def test_nulls_are_kept(warehouse: Warehouse) -> None:
    await warehouse.record(OBJECT, [object_row(study_date=None)])
    await warehouse.record(STATE, [state_row(patient_birth_date=None, series_date=None, patient_size=None)])
    await warehouse.record(IMAGE, [image_row(content_date=None, slice_thickness=None, rescale_slope=None)])
    assert dict(await warehouse.counts()) == dict(zip(NONE, (1, 1, 1, 0), strict=True))


async def test_texts_stay_as_they_are(warehouse: Warehouse) -> None:
    rows = [access_row(number, user=text, headers=text, path=text) for number, text in enumerate(HARD_TEXTS)]
    await warehouse.record(ACCESS, rows)
    assert sorted(use.label for use in await used(warehouse)) == sorted(HARD_TEXTS)
    assert {use.requests for use in await used(warehouse)} == {1}
    kept = [object_row(number, source_ae=text[:16], file_path=f"a/{text}") for number, text in enumerate(HARD_TEXTS)]
    await warehouse.record(OBJECT, kept)
    assert await keys(warehouse) == sorted(row.file_path for row in kept)
    assert {holding.label for holding in await held(warehouse)} == {text[:16] for text in HARD_TEXTS}


async def test_a_long_text_is_not_cut(warehouse: Warehouse) -> None:
    long = "ö" * 70_000
    await warehouse.record(ACCESS, [access_row(1, user=long), access_row(2, user=f"{long}x", user_agent=long)])
    assert {use.label for use in await used(warehouse)} == {long, f"{long}x"}


@pytest.mark.parametrize("fill", ["x", "ß", "\U0001f469", "'", "\\"])
async def test_columns_are_as_wide_as_they_say(warehouse: Warehouse, fill: str) -> None:
    for table in TABLES:
        await warehouse.record(table, [filled(table, fill)])
    assert dict(await warehouse.counts()) == dict.fromkeys(NONE, 1)
    assert [holding.label for holding in await held(warehouse)] == [fill * 16]
    assert [use.label for use in await used(warehouse)] == [fill * 5000]
    assert await keys(warehouse) == [fill * 1024]


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**53 + 1, 2**63 - 1])
async def test_whole_numbers_of_64_bits(warehouse: Warehouse, number: int) -> None:
    await warehouse.record(OBJECT, [object_row(file_size=number, number_of_frames=-number - 1)])
    await warehouse.record(IMAGE, [image_row(instance_number=-number - 1, rows=number)])
    await warehouse.record(ACCESS, [access_row(content_length=number)])
    assert await held(warehouse) == [Holding("CT1", 1, 1, number)]
    assert [use.bytes for use in await used(warehouse)] == [number]
    assert await count(warehouse, IMAGE) == 1


@pytest.mark.parametrize("number", [0.0, 0.1, 5e-324, 1e-300, 123456.789, 1e300, 1.7976931348623157e308])
async def test_doubles(warehouse: Warehouse, number: float) -> None:
    await warehouse.record(STATE, [state_row(patient_size=number, patient_weight=-number)])
    await warehouse.record(IMAGE, [image_row(slice_thickness=-number, rescale_slope=number)])
    await warehouse.record(ACCESS, [access_row(duration_ms=number)])
    (use,) = await used(warehouse)
    assert use.seconds == pytest.approx(number / 1000, rel=1e-12)
    assert await count(warehouse, STATE) == await count(warehouse, IMAGE) == 1


@pytest.mark.parametrize("day", ["0001-01-01", "1583-10-15", "1899-12-31", "1969-12-31", "2299-12-31", "9999-12-31"])
async def test_any_date_may_come(warehouse: Warehouse, day: str) -> None:
    await warehouse.record(OBJECT, [object_row(study_date=day)])
    await warehouse.record(STATE, [state_row(patient_birth_date=day, study_date=day, series_date=day)])
    await warehouse.record(IMAGE, [image_row(content_date=day)])
    assert dict(await warehouse.counts()) == dict(zip(NONE, (1, 1, 1, 0), strict=True))


@pytest.mark.parametrize("day", ["1950-06-15", "1969-12-31", "1970-01-01", "2026-02-28", "2261-12-31"])
async def test_days_long_ago_and_to_come(warehouse: Warehouse, day: str) -> None:
    ends = (f"{day}T00:00:00Z", f"{day}T23:59:59.999+00:00")
    await warehouse.record(
        OBJECT, [object_row(number, created_time=time, updated_time=time) for number, time in enumerate(ends)]
    )
    assert await held(warehouse, DAY) == [Holding(day, 1, 2, 2000)]
    assert await held(warehouse, DAY, Span(since=day)) == [Holding(day, 1, 2, 2000)]
    assert await held(warehouse, DAY, Span(until=day)) == []


@pytest.mark.parametrize("address", ["", "192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7", "x" * 45])
async def test_addresses(warehouse: Warehouse, address: str) -> None:
    await warehouse.record(OBJECT, [object_row(source_ip=address)])
    await warehouse.record(ACCESS, [access_row(peer_addr=address)])
    assert await count(warehouse, OBJECT) == await count(warehouse, ACCESS) == 1


async def test_a_span_is_of_days_from_the_first_on_and_before_the_last(warehouse: Warehouse) -> None:
    times = [f"2026-01-0{day}T{clock}" for day in (1, 2, 3) for clock in ("00:00:00.000Z", "23:59:59.999+00:00")]
    await warehouse.record(OBJECT, [object_row(number, created_time=time) for number, time in enumerate(times)])
    await warehouse.record(ACCESS, [access_row(number, timestamp=time) for number, time in enumerate(times)])
    for since, until, days in (
        ("", "", (3, 2, 1)),
        ("2026-01-02", "", (3, 2)),
        ("", "2026-01-03", (2, 1)),
        ("2026-01-02", "2026-01-03", (2,)),
        ("2026-01-03", "2026-01-03", ()),
        ("2026-01-04", "2026-01-02", ()),
    ):
        span = Span(since=since, until=until)
        assert [(found.label, found.objects) for found in await held(warehouse, DAY, span)] == [
            (f"2026-01-0{day}", 2) for day in days
        ]
        assert sum(use.requests for use in await used(warehouse, span=span)) == 2 * len(days)


@pytest.mark.parametrize("tenant", ["other", "o'ther", "o%", "_", "\\", "Other"])
async def test_tenants_are_apart(warehouse: Warehouse, tenant: str) -> None:
    await warehouse.record(OBJECT, [object_row(1), object_row(1, tenant_id=tenant, file_size=5)])
    await warehouse.record(STATE, [state_row(), state_row(tenant_id=tenant, modality="MR")])
    await warehouse.record(ACCESS, [access_row(1), access_row(1, tenant_id=tenant, user="joe")])
    assert await count(warehouse, OBJECT) == await count(warehouse, STATE) == await count(warehouse, ACCESS) == 2
    assert await held(warehouse, MODALITY, Span("default")) == [Holding("CT", 1, 1, 1000)]
    assert await held(warehouse, MODALITY, Span(tenant)) == [Holding("MR", 1, 1, 5)]
    assert await held(warehouse, AE_TITLE) == [Holding("CT1", 2, 2, 1005)], "a study is one of its tenant"
    assert [use.label for use in await used(warehouse, span=Span(tenant))] == ["joe"]
    assert not await held(warehouse, span=Span("nobody"))
    assert not await used(warehouse, span=Span("nobody"))


async def test_studies_are_counted_once_and_repeats_of_objects_each(warehouse: Warehouse) -> None:
    repeats = [object_row(number, sop_uid="1.9", study_uid="1.1") for number in range(3)]
    await warehouse.record(OBJECT, [*repeats, object_row(7, study_uid="1.2", file_size=1)])
    assert await held(warehouse) == [Holding("CT1", 2, 4, 3001)]


async def test_what_was_received_from_the_most_bytes_on(warehouse: Warehouse) -> None:
    sizes = {"MR": 5, "CT": 900, "US": 70, "ct": 5, "": 60}
    rows = [object_row(number, source_ae=ae, file_size=sizes[ae]) for number, ae in enumerate(sizes)]
    await warehouse.record(OBJECT, rows)
    assert [holding.label for holding in await held(warehouse)] == ["CT", "US", "", "MR", "ct"]
    assert [holding.label for holding in await held(warehouse, most=2)] == ["CT", "US"]


async def test_days_from_the_newest_on(warehouse: Warehouse) -> None:
    days = ("2025-12-31", "2026-01-10", "2026-01-09")
    rows = [object_row(n, created_time=f"{day}T10:00:00.000Z", file_size=n) for n, day in enumerate(days)]
    await warehouse.record(OBJECT, rows)
    assert [holding.label for holding in await held(warehouse, DAY)] == ["2026-01-10", "2026-01-09", "2025-12-31"]
    assert [holding.label for holding in await held(warehouse, DAY, most=1)] == ["2026-01-10"]


async def test_transfer_syntaxes(warehouse: Warehouse) -> None:
    rows = [object_row(number, transfer_syntax_uid=JPEG if number else EXPLICIT) for number in range(3)]
    await warehouse.record(OBJECT, rows)
    assert await held(warehouse, Grouping.TRANSFER_SYNTAX) == [Holding(JPEG, 1, 2, 2000), Holding(EXPLICIT, 1, 1, 1000)]


async def test_a_modality_is_that_of_the_series(warehouse: Warehouse) -> None:
    series = ("1.1.1", "1.1.1", "1.1.2", "1.1.3")
    rows = [object_row(number, series_uid=uid, file_size=10 ** (3 - n)) for n, (number, uid) in enumerate(
        zip((1, 2, 3, 4), series, strict=True))]  # fmt: skip
    await warehouse.record(OBJECT, rows)
    assert await held(warehouse, MODALITY) == [Holding("", 1, 4, 1111)], "no series is known yet"
    await warehouse.record(STATE, [state_row("1.1.1", modality="CT"), state_row("1.1.2", modality="SR")])
    assert await held(warehouse, MODALITY) == [
        Holding("CT", 1, 2, 1100), Holding("SR", 1, 1, 10), Holding("", 1, 1, 1)
    ]  # fmt: skip
    later = state_row("1.1.1", modality="PT", updated_time="2026-01-03T00:00:00.000+00:00")
    await warehouse.record(STATE, [later, state_row("1.1.2", study_uid="9.9", modality="XX")])
    assert [holding.label for holding in await held(warehouse, MODALITY)] == ["PT", "SR", ""], "and each once"


async def test_who_asked_and_for_what_from_the_most_requests_on(warehouse: Warehouse) -> None:
    asked = [("jane", "/a", 200), ("jane", "/b", 404), ("joe", "/a", 399), ("jane", "/a", 503), ("", "/c", 400)]
    rows = [
        access_row(number, user=user, route=route, status=status, duration_ms=number * 1000.0, content_length=number)
        for number, (user, route, status) in enumerate(asked, 1)
    ]
    await warehouse.record(ACCESS, rows)
    assert await used(warehouse) == [Use("jane", 3, 2, 7, 7.0), Use("", 1, 1, 5, 5.0), Use("joe", 1, 0, 3, 3.0)]
    assert await used(warehouse, ROUTE, most=2) == [Use("/a", 3, 1, 8, 8.0), Use("/b", 1, 1, 2, 2.0)]


async def test_keys_in_order_each_once(warehouse: Warehouse) -> None:
    paths = ["b/2", "a/1", "a/10", "a/2", "B/1", "ä/1", "a/1"]
    rows = [object_row(number, file_path=path) for number, path in enumerate(paths)]
    await warehouse.record(OBJECT, rows[:4])
    await warehouse.record(OBJECT, rows[4:])
    assert await keys(warehouse) == ["B/1", "a/1", "a/10", "a/2", "b/2", "ä/1"]
    assert await keys(warehouse, "a/1") == ["a/1", "a/10"]
    assert await keys(warehouse, "c") == []


@pytest.mark.parametrize(
    "prefix", ["a_", "a%", "a\\", "a'", "a*", "a?", "a[b]", "a\U0010ffff", "a\x00", "A", "a^", "a."]
)
async def test_a_prefix_means_itself(warehouse: Warehouse, prefix: str) -> None:
    others = ["ab/1", "a/1", "axx", "a", "\U0010ffffa"]
    rows = [object_row(number, file_path=path) for number, path in enumerate([*others, f"{prefix}/1", f"{prefix}2"])]
    await warehouse.record(OBJECT, rows)
    assert await keys(warehouse, prefix) == sorted([f"{prefix}/1", f"{prefix}2"])


async def test_of_a_key_that_moved_the_newest_counts(warehouse: Warehouse) -> None:
    await warehouse.record(OBJECT, [object_row(file_path="old")])
    await warehouse.record(OBJECT, [object_row(file_path="new", updated_time="2026-01-03T00:00:00.000+00:00")])
    assert await keys(warehouse) == ["new"]


async def test_20_000_rows_at_once(warehouse: Warehouse) -> None:
    rows = [object_row(number, study_uid=f"1.{number % 100}", file_path=f"k/{number:06}") for number in range(20_000)]
    await warehouse.record(OBJECT, rows)
    await warehouse.record(OBJECT, rows[-5000:])
    assert await count(warehouse, OBJECT) == 20_000
    assert await held(warehouse) == [Holding("CT1", 100, 20_000, 20_000_000)]
    found = await keys(warehouse)
    assert found == [row.file_path for row in rows]


async def test_many_callers_at_once(warehouse: Warehouse) -> None:
    batches = [[object_row(number + part) for part in range(10)] for number in range(0, 100, 5)]
    await asyncio.gather(*(warehouse.record(OBJECT, batch) for batch in batches), held(warehouse), warehouse.counts())
    assert await count(warehouse, OBJECT) == 105


_BATCHES = st.tuples(
    st.lists(st.lists(object_rows(), max_size=12), max_size=4),
    st.lists(st.lists(state_rows(), max_size=6), max_size=3),
    st.lists(st.lists(access_rows(), max_size=12), max_size=3),
)
_SPANS = st.builds(
    Span,
    st.sampled_from(["", "default", "other"]),
    st.sampled_from(["", "2026-01-01", "2026-01-02"]),
    st.sampled_from(["", "2026-01-03", "2026-01-04"]),
)


@given(_BATCHES, st.lists(_SPANS, min_size=1, max_size=3), st.integers(1, 4))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_agrees_with_the_one_in_memory(
    warehouse_name: str,
    batches: tuple[list[list[DicomObjectMeta]], list[list[DicomStateMeta]], list[list[WadoAccessLog]]],
    spans: list[Span],
    most: int,
) -> None:
    asyncio.run(_agree(warehouse_name, batches, spans, most))


async def _agree(
    name: str, batches: Sequence[Sequence[Sequence[msgspec.Struct]]], spans: Sequence[Span], most: int
) -> None:
    reference = MemoryWarehouse(NoOptions(), Path())
    with tempfile.TemporaryDirectory() as folder:
        try:
            tested = await make("warehouse", name, Path(folder)).__aenter__()
        except (ConfigError, Unavailable) as error:
            pytest.skip(f"the warehouse plugin {name} was not tested: {error}")
        try:
            for table, told in zip((OBJECT, STATE, ACCESS), batches, strict=True):
                for rows in consistent(table, told):
                    await reference.record(table, rows)
                    await tested.record(table, rows)
            await _same_answers(tested, reference, spans, most)
        finally:
            await tested.__aexit__(None, None, None)


async def _same_answers(tested: Warehouse, reference: Warehouse, spans: Sequence[Span], most: int) -> None:
    assert dict(await tested.counts()) == dict(await reference.counts())
    assert await keys(tested) == await keys(reference)
    for span in spans:
        for limit in (most, 1000):
            for by in Grouping:
                assert await held(tested, by, span, limit) == await held(reference, by, span, limit)
            for asked in AccessGrouping:
                answers = zip(
                    await used(tested, asked, span, limit), await used(reference, asked, span, limit), strict=True
                )
                for use, told in answers:
                    assert use == msgspec.structs.replace(told, seconds=use.seconds)
                    assert use.seconds == pytest.approx(told.seconds)


def test_every_column_is_of_a_kind_that_is_tested() -> None:
    assert {column.kind for table in TABLES for column in table.columns} == set(Kind)
