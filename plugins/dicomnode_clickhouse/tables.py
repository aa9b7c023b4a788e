"""The tables as ClickHouse has them, and the ones that fill them from Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dicomnode.model.messages import (
    ACCESS_QUEUE,
    IMAGE_QUEUE,
    LOG_QUEUE,
    STATE_QUEUE,
    DicomImageMeta,
    DicomObjectMeta,
    DicomStateMeta,
    WadoAccessLog,
)
from dicomnode.model.warehouse import ACCESS, IMAGE, OBJECT, STATE, TABLES, Column, Kind, Table
from dicomnode_clickhouse.rows import OLDEST, not_null

VERSIONS = "schema_version"
ERRORS = "pull_errors"
_ERRORS_KEPT_DAYS = 30

# Columns of few different values: a dictionary makes them a byte or two, and grouping by them quick.
_FEW = frozenset(
    (
        *("tenant_id", "worker_node_id", "sop_class_uid", "transfer_syntax_uid", "target_ts", "transfer_status"),
        *("source_ip", "source_ae", "modality", "patient_sex", "body_part_examined", "image_type"),
        *("photometric_interpretation", "rescale_type", "image_status", "method", "route", "resource_type"),
    )
)
_TYPES = {Kind.INTEGER: "Int64", Kind.NUMBER: "Nullable(Float64)", Kind.DATE: "Nullable(Date32)"}
_CODECS = {Kind.TEXT: "ZSTD(1)", Kind.INTEGER: "T64, ZSTD(1)", Kind.TIME: "Delta(8), ZSTD(1)", Kind.NUMBER: "ZSTD(1)"}
_MOMENT = "DateTime64(3, 'UTC')"

# For each table: the topic, the group by the name that seed 0 gave it, and the message.
_PULLED: dict[str, tuple[str, str, type[msgspec.Struct]]] = {
    OBJECT.name: (LOG_QUEUE, "medical_object_group", DicomObjectMeta),
    STATE.name: (STATE_QUEUE, "medical_state_group", DicomStateMeta),
    IMAGE.name: (IMAGE_QUEUE, "medical_image_group", DicomImageMeta),
    ACCESS.name: (ACCESS_QUEUE, "clickhouse_webapi_consumer", WadoAccessLog),
}


def quoted(name: str) -> str:
    """Return `name` as an identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def text(value: str) -> str:
    """Return `value` as a literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Layout(msgspec.Struct, frozen=True):
    """Where the tables are: in a database, perhaps on every server of a cluster; rows may go after `retain_days`."""

    database: str
    cluster: str = ""
    retain_days: int = 0

    def name(self, table: str) -> str:
        """Return the full name of `table`."""
        return f"{quoted(self.database)}.{quoted(table)}"

    @property
    def _everywhere(self) -> str:
        return f" ON CLUSTER {quoted(self.cluster)}" if self.cluster else ""

    @property
    def _copied(self) -> str:
        return "Replicated" if self.cluster else ""

    def create_database(self) -> str:
        """Return the statement that makes the database."""
        return f"CREATE DATABASE IF NOT EXISTS {quoted(self.database)}{self._everywhere}"

    def create_all(self) -> list[str]:
        """Return the statements that make every table that is not there."""
        versions = (
            f"CREATE TABLE IF NOT EXISTS {self.name(VERSIONS)}{self._everywhere} "
            "(number UInt32, program String, applied DateTime DEFAULT now()) "
            f"ENGINE = {self._copied}ReplacingMergeTree(applied) ORDER BY number"
        )
        return [versions, *map(self._create, TABLES)]

    def _create(self, table: Table) -> str:
        columns = ",\n    ".join([*(_declared(table, column) for column in table.columns), *_indexes(table)])
        lines = [
            f"CREATE TABLE IF NOT EXISTS {self.name(table.name)}{self._everywhere} (\n    {columns}\n)",
            f"ENGINE = {self._copied}ReplacingMergeTree({quoted(table.version)})",
        ]
        if table.when:
            lines.append(f"PARTITION BY toYYYYMM({quoted(table.when)})")
        lines.append(f"ORDER BY ({', '.join(map(quoted, table.key))})")
        if lasts := self.lasts(table):
            lines.append(f"TTL {lasts}")
        # A row is there after a crash only if its part was synced; a month that is over goes at once, not row by row.
        lines.append("SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1")
        return "\n".join(lines)

    def lasts(self, table: Table) -> str:
        """Return until when a row is kept; empty: for good."""
        if not table.when or not self.retain_days:
            return ""
        return f"toDateTime({quoted(table.when)}) + toIntervalDay({self.retain_days})"

    def keep_for(self, table: Table) -> str:
        """Return the statement that makes a table's rows last as long as is now said."""
        lasts = self.lasts(table)
        return f"ALTER TABLE {self.name(table.name)}{self._everywhere} " + (
            f"MODIFY TTL {lasts}" if lasts else "REMOVE TTL"
        )

    def add_column(self, table: Table, column: Column) -> str:
        """Return the statement that adds `column` to a table that was made without it."""
        return (
            f"ALTER TABLE {self.name(table.name)}{self._everywhere} ADD COLUMN IF NOT EXISTS {_declared(table, column)}"
        )

    def pulling(self, servers: str) -> Iterator[str]:
        """Yield the statements by which the server fetches rows from Kafka at `servers` (host:port, …) itself."""
        yield (
            f"CREATE TABLE IF NOT EXISTS {self.name(ERRORS)}{self._everywhere} (\n"
            "    time DateTime DEFAULT now(),\n    topic LowCardinality(String),\n    partition UInt64,\n"
            "    offset UInt64,\n    error String,\n    message String\n)\n"
            f"ENGINE = {self._copied}MergeTree\nORDER BY (topic, time)\n"
            f"TTL time + toIntervalDay({_ERRORS_KEPT_DAYS})"
        )
        for table in TABLES:
            yield self._queue(table, servers)
            yield self._view(table)
            yield self._errors_view(table)

    def _queue(self, table: Table, servers: str) -> str:
        topic, group, _ = _PULLED[table.name]
        columns = ",\n    ".join(f"{quoted(column.name)} {_read(column)}" for column in table.columns)
        settings = {
            "kafka_broker_list": servers,
            "kafka_topic_list": topic,
            "kafka_group_name": group,
            "kafka_format": "JSONEachRow",
            "kafka_handle_error_mode": "stream",
            "date_time_input_format": "best_effort",
        }
        told = ", ".join(f"{name} = {text(value)}" for name, value in settings.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name(f'{table.name}_queue')}{self._everywhere} (\n    {columns}\n)\n"
            f"ENGINE = Kafka\nSETTINGS {told}, input_format_skip_unknown_fields = 1"
        )

    def _view(self, table: Table) -> str:
        columns = ",\n    ".join(f"{value} AS {quoted(name)}" for name, value in _taken(table))
        return (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {self.name(f'{table.name}_mv')}{self._everywhere}\n"
            f"TO {self.name(table.name)} AS SELECT\n    {columns}\n"
            f"FROM {self.name(f'{table.name}_queue')} AS queue\nWHERE length(_error) = 0"
        )

    def _errors_view(self, table: Table) -> str:
        return (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {self.name(f'{table.name}_errors_mv')}{self._everywhere}\n"
            f"TO {self.name(ERRORS)} AS SELECT\n    _topic AS topic, _partition AS partition, _offset AS offset, "
            f"_error AS error, _raw_message AS message\n"
            f"FROM {self.name(f'{table.name}_queue')}\nWHERE length(_error) > 0"
        )


def _declared(table: Table, column: Column) -> str:
    codec = _CODECS.get(column.kind)
    return f"{quoted(column.name)} {_type(table, column)}" + (
        f" CODEC({codec})" if codec and column.name not in _FEW else ""
    )


def _type(table: Table, column: Column) -> str:
    match column.kind:
        case Kind.TEXT:
            return "LowCardinality(String)" if column.name in _FEW else "String"
        case Kind.TIME if column.name in not_null(table):
            return f"{_MOMENT} DEFAULT toDateTime64('{OLDEST}', 3, 'UTC')"
        case Kind.TIME:
            return f"Nullable({_MOMENT})"
        case kind:
            return _TYPES[kind]


def _indexes(table: Table) -> Sequence[str]:
    """Return what finds rows by another column than those of the key."""
    # Paths begin with tenant and study date, rows lie by time of receipt: of most granules a prefix can be ruled out.
    return ("INDEX by_path `file_path` TYPE minmax GRANULARITY 4",) if table is OBJECT else ()


def _read(column: Column) -> str:
    """Return the type of a column as it is read from a message: times may be missing."""
    match column.kind:
        case Kind.TEXT:
            return "String"
        case Kind.TIME:
            return f"Nullable({_MOMENT})"
        case kind:
            return _TYPES[kind]


def _taken(table: Table) -> Iterator[tuple[str, str]]:
    """Yield each column with what it holds of a message, where fields that hold their default are left out."""
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(_PULLED[table.name][2])
        if isinstance(field.default, str) and field.default
    }
    for column in table.columns:
        name = f"queue.{quoted(column.name)}"
        if column.name in defaults:
            yield column.name, f"if({name} = '', {text(defaults[column.name])}, {name})"
        elif column.name in not_null(table):
            yield column.name, f"ifNull({name}, toDateTime64('{OLDEST}', 3, 'UTC'))"
        else:
            yield column.name, name
