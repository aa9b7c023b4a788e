"""The tables as Doris has them, and the jobs that fill them from Kafka.

A UNIQUE KEY table keeps one row for each key, that of the greatest sequence column. A column that rows are parted by
must be one of the key: the time of receipt, or of a request, is part of what a row is. It never changes for one
`trace_id` or `request_id`, so that this keeps no two rows where one is meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

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
from dicomnode_doris.rows import OLDEST, not_null

VERSIONS = "schema_version"
_DAYS_OF_A_MONTH = 28
_TYPES = {Kind.INTEGER: "BIGINT", Kind.NUMBER: "DOUBLE", Kind.DATE: "DATE", Kind.TIME: "DATETIME(3)"}
_BYTES = 4  # of a character, at most: widths are told in characters, Doris counts bytes

# For each table: the topic, the job by the name that seed 0 gave it or would have, and the message.
_PULLED: dict[str, tuple[str, str, type[msgspec.Struct]]] = {
    OBJECT.name: (LOG_QUEUE, "medical_object_load", DicomObjectMeta),
    STATE.name: (STATE_QUEUE, "medical_state_load", DicomStateMeta),
    IMAGE.name: (IMAGE_QUEUE, "medical_image_load", DicomImageMeta),
    ACCESS.name: (ACCESS_QUEUE, "webapi_access_load", WadoAccessLog),
}
# How seed 0 sets its jobs: what ends a batch, and how many rows may be unreadable before a job pauses.
_JOB = {
    "desired_concurrent_number": "1",
    "max_batch_interval": "10",
    "max_batch_rows": "300000",
    "max_batch_size": "209715200",
    "max_error_number": "1000",
    "strict_mode": "false",
    "timezone": "UTC",
    "format": "json",
}


def quoted(name: str) -> str:
    """Return `name` as an identifier; a back-quote in it is refused where the url is read."""
    return f"`{name}`"


def _property(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _properties(told: dict[str, str]) -> str:
    return ", ".join(f"{_property(name)} = {_property(value)}" for name, value in told.items())


class Layout(msgspec.Struct, frozen=True):
    """Where the tables are, how many copies of each part there are, and after how many days rows may go (0: never)."""

    database: str
    replicas: int = 3
    retain_days: int = 0

    def name(self, table: str) -> str:
        """Return the full name of `table`."""
        return f"{quoted(self.database)}.{quoted(table)}"

    def create_database(self) -> str:
        """Return the statement that makes the database."""
        return f"CREATE DATABASE IF NOT EXISTS {quoted(self.database)}"

    def create_all(self) -> list[str]:
        """Return the statements that make every table that is not there."""
        versions = (
            f"CREATE TABLE IF NOT EXISTS {self.name(VERSIONS)} (\n"
            "    `number` INT NOT NULL,\n    `program` VARCHAR(256) NULL\n)\n"
            "UNIQUE KEY (`number`)\nDISTRIBUTED BY HASH(`number`) BUCKETS 1\n"
            f'PROPERTIES ("replication_num" = "{self.replicas}")'
        )
        return [versions, *map(self._create, TABLES)]

    def _create(self, table: Table) -> str:
        key = key_of(table)
        columns = ",\n    ".join(_declared(table, column) for column in ordered(table))
        lines = [
            f"CREATE TABLE IF NOT EXISTS {self.name(table.name)} (\n    {columns}\n)",
            f"UNIQUE KEY ({', '.join(map(quoted, key))})",
        ]
        if table.when:
            lines.append(f"AUTO PARTITION BY RANGE (date_trunc({quoted(table.when)}, 'month')) ()")
        # A study lies together where the key knows of studies.
        spread = "study_uid" if "study_uid" in key else table.key[-1]
        lines.append(f"DISTRIBUTED BY HASH({quoted(spread)}) BUCKETS AUTO")
        told = {"replication_num": str(self.replicas), "enable_unique_key_merge_on_write": "true"}
        if table.version not in key:
            told["function_column.sequence_col"] = table.version
        lines.append(f"PROPERTIES ({_properties(told | self._lasts(table))})")
        return "\n".join(lines)

    def _lasts(self, table: Table) -> dict[str, str]:
        if not table.when or not self.retain_days:
            return {}
        return {"partition.retention_count": str(-(-self.retain_days // _DAYS_OF_A_MONTH))}

    def keep_for(self, table: Table) -> list[str]:
        """Return the statements that make a table's rows last as long as is now said; none where it does not say."""
        lasts = self._lasts(table)
        return [f"ALTER TABLE {self.name(table.name)} SET ({_properties(lasts)})"] if lasts else []

    def add_column(self, table: Table, column: Column) -> str:
        """Return the statement that adds `column` to a table that was made without it."""
        return f"ALTER TABLE {self.name(table.name)} ADD COLUMN {_declared(table, column)}"

    def pulling(self, servers: str) -> Iterator[str]:
        """Yield the statements by which Doris fetches rows from Kafka at `servers` (host:port, …) itself."""
        for table in TABLES:
            topic, job, _ = _PULLED[table.name]
            names = [column.name for column in ordered(table)]
            paths = json.dumps([f"$.{name}" for name in names])
            kafka = {
                "kafka_broker_list": servers,
                "kafka_topic": topic,
                "property.group.id": job,
                "property.kafka_default_offsets": "OFFSET_BEGINNING",
            }
            taken = ", ".join([*(quoted(_read(table, name)) for name in names), *_made(table)])
            yield (
                f"CREATE ROUTINE LOAD {self.name(job)} ON {quoted(table.name)}\nCOLUMNS ({taken})\n"
                f"PROPERTIES ({_properties(_JOB | {'jsonpaths': paths})})\nFROM KAFKA ({_properties(kafka)})"
            )


def key_of(table: Table) -> tuple[str, ...]:
    """Return the columns of the key as Doris needs it: with that which rows are parted by."""
    return (*table.key, *((table.when,) if table.when and table.when not in table.key else ()))


def ordered(table: Table) -> list[Column]:
    """Return the columns, those of the key first, as Doris needs them."""
    key = key_of(table)
    by_name = {column.name: column for column in table.columns}
    return [*(by_name[name] for name in key), *(column for column in table.columns if column.name not in key)]


def _declared(table: Table, column: Column) -> str:
    null = "NOT NULL" if column.name in not_null(table) else "NULL"
    return f"{quoted(column.name)} {_type(column)} {null}"


def _type(column: Column) -> str:
    if column.kind is Kind.TEXT:
        return f"VARCHAR({_BYTES * column.width})" if column.width else "STRING"
    return _TYPES[column.kind]


def _defaults(table: Table) -> dict[str, str]:
    """Return what columns hold of a message where the field is left out."""
    fields = msgspec.structs.fields(_PULLED[table.name][2])
    told = {field.name: field.default for field in fields if isinstance(field.default, str) and field.default}
    moments = {column.name for column in table.columns if column.kind is Kind.TIME}
    return told | dict.fromkeys(sorted(moments & not_null(table)), OLDEST)


def _read(table: Table, name: str) -> str:
    """Return by what name a field is read: another one where something may stand for it."""
    return f"told_{name}" if name in _defaults(table) else name


def _made(table: Table) -> Iterator[str]:
    for name, default in _defaults(table).items():
        yield f"{quoted(name)} = ifnull({quoted(_read(table, name))}, '{default}')"
