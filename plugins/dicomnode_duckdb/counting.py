"""Questions to the tables, as SQL."""

from __future__ import annotations

from dicomnode.model.warehouse import ACCESS, OBJECT, STATE, TABLES, AccessGrouping, Grouping, Span, Table

_LABELS = {
    Grouping.DAY: "held.created_time::date",
    Grouping.MODALITY: "coalesce(series.modality, '')",
    Grouping.AE_TITLE: "held.source_ae",
    Grouping.TRANSFER_SYNTAX: "held.transfer_syntax_uid",
    AccessGrouping.USER: 'held."user"',
    AccessGrouping.ROUTE: "held.route",
}
_SERIES = f"LEFT JOIN main.{STATE.name} series ON " + " AND ".join(f"series.{name} = held.{name}" for name in STATE.key)
# All of these are constants of ours; what somebody else says comes as a parameter.
COUNTS = " UNION ALL ".join(f"SELECT '{table.name}', count(*) FROM main.{table.name}" for table in TABLES)  # noqa: S608
PING = "SELECT max(number) FROM main.migration"
KEYS = f"""
SELECT DISTINCT file_path FROM main.{OBJECT.name} WHERE file_path >= $1 AND starts_with(file_path, $1) ORDER BY 1
"""  # noqa: S608


def holdings(by: Grouping, span: Span, most: int) -> tuple[str, dict[str, object]]:
    """Return the statement for `Warehouse.holdings` and its values."""
    where, values = _within(OBJECT, span)
    join = _SERIES if by is Grouping.MODALITY else ""
    order = "label DESC" if by is Grouping.DAY else "bytes DESC, label"
    text = f"""
SELECT coalesce(label::varchar, ''), count(DISTINCT (tenant_id, study_uid)), count(*), sum(file_size) AS bytes
FROM (SELECT held.*, {_LABELS[by]} AS label FROM main.{OBJECT.name} held {join} WHERE {where})
GROUP BY label ORDER BY {order} LIMIT $most
"""  # noqa: S608
    return text, values | {"most": most}


def accesses(by: AccessGrouping, span: Span, most: int) -> tuple[str, dict[str, object]]:
    """Return the statement for `Warehouse.accesses` and its values."""
    where, values = _within(ACCESS, span)
    text = f"""
SELECT {_LABELS[by]} AS label, count(*) AS requests, count(*) FILTER (held.status >= 400), sum(held.content_length),
    coalesce(sum(held.duration_ms / 1000), 0.0)
FROM main.{ACCESS.name} held WHERE {where} GROUP BY label ORDER BY requests DESC, label LIMIT $most
"""  # noqa: S608
    return text, values | {"most": most}


def _within(table: Table, span: Span) -> tuple[str, dict[str, object]]:
    told = {
        "tenant": (span.tenant, "held.tenant_id = $tenant"),
        "since": (span.since, f"held.{table.when} >= $since::timestamp"),
        "until": (span.until, f"held.{table.when} < $until::timestamp"),
    }
    asked = {name: value for name, value in told.items() if value[0]}
    where = " AND ".join(condition for _, condition in asked.values()) or "true"
    return where, {name: value for name, (value, _) in asked.items()}
