"""What is asked of the tables, as SQL with the values beside it. A key has one row: nothing is counted twice."""
# ruff: noqa: S608 -- names go through `quoted`, values beside the text

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.model.warehouse import ACCESS, OBJECT, STATE, TABLES, AccessGrouping, Grouping, Span, Table
from dicomnode_doris.rows import OLDEST
from dicomnode_doris.tables import Layout, quoted

Question = tuple[str, Sequence[object]]

_LABELS = {
    Grouping.DAY: f"CASE WHEN o.created_time = '{OLDEST}' THEN '' ELSE CAST(DATE(o.created_time) AS VARCHAR(10)) END",
    Grouping.MODALITY: "COALESCE(s.modality, '')",
    Grouping.AE_TITLE: "COALESCE(o.source_ae, '')",
    Grouping.TRANSFER_SYNTAX: "COALESCE(o.transfer_syntax_uid, '')",
}


def holdings(layout: Layout, by: Grouping, span: Span, most: int) -> Question:
    """Return the question what was received."""
    where, values = _within(OBJECT, "o", span)
    series = ""
    if by is Grouping.MODALITY:
        same = " AND ".join(f"s.{quoted(name)} = o.{quoted(name)}" for name in STATE.key)
        series = f" LEFT JOIN {layout.name(STATE.name)} AS s ON {same}"
    order = "label DESC" if by is Grouping.DAY else "bytes DESC, label"
    text = (
        f"SELECT {_LABELS[by]} AS label, COUNT(DISTINCT o.tenant_id, o.study_uid) AS studies, COUNT(*) AS objects, "
        f"COALESCE(SUM(o.file_size), 0) AS bytes FROM {layout.name(OBJECT.name)} AS o{series}{where} "
        f"GROUP BY label ORDER BY {order} LIMIT {int(most)}"
    )
    return text, values


def accesses(layout: Layout, by: AccessGrouping, span: Span, most: int) -> Question:
    """Return the question who asked, or for what."""
    where, values = _within(ACCESS, "a", span)
    text = (
        f"SELECT COALESCE(a.{quoted(by.value)}, '') AS label, COUNT(*) AS requests, "
        f"SUM(CASE WHEN a.status >= 400 THEN 1 ELSE 0 END) AS failures, "
        f"COALESCE(SUM(a.content_length), 0) AS bytes, COALESCE(SUM(a.duration_ms), 0) / 1000 AS seconds "
        f"FROM {layout.name(ACCESS.name)} AS a{where} GROUP BY label ORDER BY requests DESC, label LIMIT {int(most)}"
    )
    return text, values


def counts(layout: Layout) -> Question:
    """Return the question how many rows each table holds."""
    each = (f"SELECT '{table.name}' AS name, COUNT(*) AS held FROM {layout.name(table.name)}" for table in TABLES)
    return " UNION ALL ".join(each), ()


def keys(layout: Layout, prefix: str, last: str | None, most: int) -> Question:
    """Return the question for the next `most` paths that begin with `prefix`, after `last`."""
    path = "COALESCE(o.file_path, '')"
    after, values = ("", [prefix]) if last is None else (f" AND {path} > %s", [prefix, last])
    text = (
        f"SELECT DISTINCT {path} AS path FROM {layout.name(OBJECT.name)} AS o "
        f"WHERE STARTS_WITH({path}, %s){after} ORDER BY path LIMIT {most}"
    )
    return text, values


def _within(table: Table, name: str, span: Span) -> Question:
    conditions, values = [], []
    when = f"{name}.{quoted(table.when)}"
    for condition, value in (
        (f"{name}.tenant_id = %s", span.tenant),
        (f"{when} >= %s", span.since and f"{span.since} 00:00:00"),
        (f"{when} < %s", span.until and f"{span.until} 00:00:00"),
    ):
        if value:
            conditions.append(condition)
            values.append(value)
    return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), values
