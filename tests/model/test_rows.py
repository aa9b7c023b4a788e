"""Messages leave out what is not known; a warehouse that reads one then has what the row says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dicomnode.model.instance import receipt_id, receipt_of, received_ms
from dicomnode.model.messages import encode
from dicomnode.model.warehouse import TABLES, Kind, Table
from tests.contracts.rows import access_row, image_row, object_row, state_row

_EMPTY = {Kind.TEXT: "", Kind.INTEGER: 0}
_BOTH = list(zip(TABLES, (object_row(), state_row(), image_row(), access_row()), strict=True))


@pytest.mark.parametrize(("table", "row"), _BOTH)
def test_what_a_message_leaves_out_is_empty_in_the_row(table: Table, row: msgspec.Struct) -> None:
    told = msgspec.json.decode(encode(row))
    for column in table.columns:
        assert told.get(column.name, _EMPTY.get(column.kind)) == getattr(row, column.name), column.name


@pytest.mark.parametrize(("table", "row"), _BOTH)
def test_every_column_is_a_field_of_the_message(table: Table, row: msgspec.Struct) -> None:
    assert {column.name for column in table.columns} <= set(row.__struct_fields__)


def test_a_key_tells_when_its_object_was_received() -> None:
    key = f"default/20260102/1.2/1.3/1.4-{receipt_id(1_767_323_045_678_000_000)}.dcm"
    assert received_ms(key) == 1_767_323_045_678
    assert receipt_of("a/b.dcm") == ""
    assert received_ms("a/b.dcm") is None
    assert received_ms(f"a/b-{'v' * 20}.dcm") is None, "no year of four digits"


def test_every_column_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "warehouse.md").read_text(encoding="utf-8")
    for table in TABLES:
        assert f"`{table.name}`" in page
        assert [column.name for column in table.columns if f"`{column.name}`" not in page] == []
