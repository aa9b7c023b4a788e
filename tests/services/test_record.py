from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from dicomnode import metrics
from dicomnode.model.messages import ACCESS_QUEUE, IMAGE_QUEUE, LOG_QUEUE, STATE_QUEUE, encode
from dicomnode.model.warehouse import OBJECT, STATE, TABLES, Table
from dicomnode.services.record import RECORDED, Reading, Record
from dicomnode_memory.warehouse import MemoryWarehouse
from tests.contracts.rows import access_row, image_row, object_row, state_row

ROWS = {
    LOG_QUEUE: object_row(),
    STATE_QUEUE: state_row(),
    IMAGE_QUEUE: image_row(content_date="2026-01-02"),
    ACCESS_QUEUE: access_row(),
}


def reading(topic: str) -> Reading:
    return Reading(*RECORDED[topic])


def test_every_table_has_a_topic() -> None:
    assert {table.name for table, _ in RECORDED.values()} == {table.name for table in TABLES}


@pytest.mark.parametrize("topic", RECORDED)
def test_what_was_told_is_what_is_read(topic: str) -> None:
    kind, row = RECORDED[topic][1], ROWS[topic]
    read = reading(topic).read(encode(row))
    assert type(read) is kind
    assert read == row


@pytest.mark.parametrize(
    "change",
    [
        {"file_size": 2**63},
        {"file_size": -(2**63) - 1},
        {"file_size": "1"},
        {"file_size": 1.5},
        {"study_date": "20260102"},
        {"study_date": "2026-13-01"},
        {"study_date": ""},
        {"created_time": "yesterday"},
        {"created_time": "2026-02-30T00:00:00Z"},
        {"created_time": "2026-01-02T24:00:00Z"},
        {"created_time": "2026-01-02 03:04:05"},
        {"created_time": ""},
        {"tenant_id": None},
        {"transfer_status": "Perhaps"},
    ],
)
def test_what_no_column_can_hold_is_refused(change: dict[str, object]) -> None:
    told = msgspec.to_builtins(object_row()) | change
    with pytest.raises(ValueError, match=r"."):
        reading(LOG_QUEUE).read(msgspec.json.encode(told))


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"{}", b"null", b"\xff\xfe", b'{"trace_id": 1}', b"{" * 99])
def test_what_is_no_row_is_refused(body: bytes) -> None:
    for topic in RECORDED:
        with pytest.raises(ValueError, match=r"."):
            reading(topic).read(body)


def test_what_a_later_release_adds_is_passed_over() -> None:
    told = msgspec.to_builtins(object_row()) | {"added_later": {"a": [1]}}
    assert reading(LOG_QUEUE).read(msgspec.json.encode(told)) == object_row()


def test_what_an_earlier_release_lacked_follows_from_what_it_had() -> None:
    told = msgspec.to_builtins(object_row())
    del told["updated_time"]
    assert reading(LOG_QUEUE).read(msgspec.json.encode(told)).updated_time == object_row().created_time


@pytest.mark.parametrize("time", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456+02:00", "1969-12-31T23:59:59Z"])
def test_times_of_rfc_3339_are_taken(time: str) -> None:
    assert reading(STATE_QUEUE).read(encode(state_row(updated_time=time))).updated_time == time


def test_dates_may_be_unknown() -> None:
    assert reading(LOG_QUEUE).read(encode(object_row(study_date=None))).study_date is None


def recorded(table: str) -> float:
    return metrics.REGISTRY.get_sample_value("dicomnode_rows_recorded_total", {"table": table}) or 0.0


class Seen(MemoryWarehouse):
    """A warehouse that remembers how many rows it was given at once."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(MemoryWarehouse.Options(), tmp_path)
        self.given: list[int] = []

    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        self.given.append(len(rows))
        await super().record(table, rows)


async def test_of_one_key_the_latest_goes_to_the_warehouse_alone(tmp_path: Path) -> None:
    warehouse, before = Seen(tmp_path), recorded(STATE.name)
    times = [f"2026-01-02T03:04:0{second}.000+00:00" for second in (1, 3, 2)]
    rows = [state_row(updated_time=time, series_related_instances=n) for n, time in enumerate(times)]
    await Record(warehouse).record(STATE, [*rows, state_row("2.2.2")])
    assert warehouse.given == [2]
    (kept,) = [row for row in warehouse._tables[STATE.name].values() if row["series_uid"] == "1.1.1"]
    assert kept["series_related_instances"] == 1
    assert recorded(STATE.name) == before + 2


async def test_of_equal_versions_the_last_counts(tmp_path: Path) -> None:
    warehouse = Seen(tmp_path)
    await Record(warehouse).record(STATE, [state_row(series_related_instances=n) for n in (1, 2, 3)])
    (kept,) = warehouse._tables[STATE.name].values()
    assert kept["series_related_instances"] == 3


async def test_times_that_others_wrote_are_left_to_the_warehouse(tmp_path: Path) -> None:
    warehouse = Seen(tmp_path)
    rows = [
        state_row(updated_time="2026-01-02T05:00:00.000+02:00", series_related_instances=1),
        state_row(updated_time="2026-01-02T03:30:00.000+00:00", series_related_instances=2),
    ]
    await Record(warehouse).record(STATE, rows)
    (kept,) = warehouse._tables[STATE.name].values()
    assert (warehouse.given, kept["series_related_instances"]) == ([2], 2)


async def test_nothing_is_not_recorded(tmp_path: Path) -> None:
    warehouse = Seen(tmp_path)
    await Record(warehouse).record(OBJECT, [])
    assert warehouse.given == []
