"""What is asked of the tables, as SQL. Rows are read with FINAL: of those of one key only the newest counts."""
# ruff: noqa: S608 -- names go through `quoted`, values through `text`

from __future__ import annotations

from dicomnode.model.warehouse import ACCESS, OBJECT, STATE, TABLES, AccessGrouping, Grouping, Span, Table
from dicomnode_clickhouse.rows import OLDEST
from dicomnode_clickhouse.tables import Layout, quoted, text

_AS_TEXT = f"if(created_time = toDateTime64('{OLDEST}', 3, 'UTC'), '', toString(toDate32(created_time)))"
_LABELS = {
    Grouping.DAY: _AS_TEXT,
    Grouping.MODALITY: "toString(modality)",
    Grouping.AE_TITLE: "toString(source_ae)",
    Grouping.TRANSFER_SYNTAX: "toString(transfer_syntax_uid)",
}


def holdings(layout: Layout, by: Grouping, span: Span, most: int) -> str:
    """Return the question what was received."""
    rows = f"SELECT * FROM {layout.name(OBJECT.name)} FINAL{_within(OBJECT, span)}"
    if by is Grouping.MODALITY:
        key = ", ".join(map(quoted, STATE.key))
        series = f"SELECT {key}, modality FROM {layout.name(STATE.name)} FINAL{_of(span.tenant)}"
        rows = f"SELECT o.*, s.modality FROM ({rows}) AS o ANY LEFT JOIN ({series}) AS s USING ({key})"
    order = "label DESC" if by is Grouping.DAY else "bytes DESC, label"
    return (
        f"SELECT {_LABELS[by]} AS label, uniqExact(tenant_id, study_uid) AS studies, count() AS objects, "
        f"sum(file_size) AS bytes FROM ({rows}) GROUP BY label ORDER BY {order} LIMIT {int(most)}"
    )


def accesses(layout: Layout, by: AccessGrouping, span: Span, most: int) -> str:
    """Return the question who asked, or for what."""
    return (
        f"SELECT toString({quoted(by.value)}) AS label, count() AS requests, countIf(status >= 400) AS failures, "
        f"sum(content_length) AS bytes, ifNull(sum(duration_ms), 0) / 1000 AS seconds "
        f"FROM {layout.name(ACCESS.name)} FINAL{_within(ACCESS, span)} "
        f"GROUP BY label ORDER BY requests DESC, label LIMIT {int(most)}"
    )


def counts(layout: Layout) -> str:
    """Return the question how many rows each table holds, in the order of TABLES."""
    return "SELECT " + ", ".join(f"(SELECT count() FROM {layout.name(table.name)} FINAL)" for table in TABLES)


def keys(layout: Layout, prefix: str, last: str | None, most: int) -> str:
    """Return the question for the next `most` paths that begin with `prefix`, after `last`."""
    after = "" if last is None else f" AND file_path > {text(last)}"
    return (
        f"SELECT DISTINCT file_path FROM {layout.name(OBJECT.name)} FINAL "
        f"WHERE startsWith(file_path, {text(prefix)}){after} ORDER BY file_path LIMIT {most}"
    )


def _within(table: Table, span: Span) -> str:
    conditions = [f"tenant_id = {text(span.tenant)}"] if span.tenant else []
    when = quoted(table.when)
    conditions += [f"{when} {sign} {_start(day)}" for sign, day in ((">=", span.since), ("<", span.until)) if day]
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _of(tenant: str) -> str:
    return f" WHERE tenant_id = {text(tenant)}" if tenant else ""


def _start(day: str) -> str:
    return f"toDateTime64({text(f'{day} 00:00:00.000')}, 3, 'UTC')"
