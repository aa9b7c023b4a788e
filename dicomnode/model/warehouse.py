"""What the warehouse holds: what was received, what the archive says of it, who looked at it; and what is asked of it.

A row is one of the messages (model.messages); its columns are the message's fields by name. Recording a row again,
which happens with every message that is delivered twice, changes nothing: of rows with one key the one whose `version`
is greatest counts.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What a column holds. A DATE, TIME or NUMBER that is not known is null, else it is empty or 0."""

    TEXT = "text"
    INTEGER = "integer"  # 64 bits, signed
    NUMBER = "number"  # a double
    DATE = "date"  # in a message YYYY-MM-DD
    TIME = "time"  # to the millisecond, UTC; in a message RFC 3339


class Column(msgspec.Struct, frozen=True):
    """A column; `width`: the most characters that the standard or we put into it, 0 for any number."""

    name: str
    kind: Kind
    width: int = 0


class Table(msgspec.Struct, frozen=True):
    """A table. `key`: what makes a row one; `version`: the column whose greatest value counts.

    `when`: the column by whose month the rows are apart and after which they may be dropped; empty for tables that say
    what is, and are never dropped.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: str
    when: str = ""


def _columns(text: str) -> tuple[Column, ...]:
    made = []
    for line in text.strip().splitlines():
        name, kind, *width = line.split()
        made.append(Column(name, Kind(kind), int(width[0]) if width else 0))
    return tuple(made)


OBJECT = Table(
    "dicom_object_meta",
    _columns(
        """
        trace_id text 36
        worker_node_id text 64
        tenant_id text 64
        patient_id text
        study_uid text 64
        series_uid text 64
        sop_uid text 64
        sop_class_uid text 64
        study_uid_hash text 20
        series_uid_hash text 20
        file_size integer
        file_path text 1024
        data_set_offset integer
        sha256 text 64
        transfer_syntax_uid text 64
        number_of_frames integer
        accession_number text
        study_date date
        target_ts text 64
        transfer_status text 16
        source_ip text 45
        source_ae text 16
        created_time time
        updated_time time
        """
    ),
    key=("tenant_id", "trace_id"),
    version="updated_time",
    when="created_time",
)

STATE = Table(
    "dicom_state_meta",
    _columns(
        """
        tenant_id text 64
        patient_id text
        study_uid text 64
        series_uid text 64
        study_uid_hash text 20
        series_uid_hash text 20
        study_date_origin text
        patient_name text
        patient_sex text
        patient_birth_date date
        patient_birth_time text
        patient_age text
        patient_size number
        patient_weight number
        pregnancy_status integer
        study_date date
        study_time text
        accession_number text
        study_id text
        study_description text
        modality text
        series_number integer
        series_date date
        series_time text
        series_description text
        body_part_examined text
        protocol_name text
        series_related_instances integer
        created_time time
        updated_time time
        """
    ),
    key=("tenant_id", "study_uid", "series_uid"),
    version="updated_time",
)

IMAGE = Table(
    "dicom_image_meta",
    _columns(
        """
        tenant_id text 64
        patient_id text
        study_uid text 64
        series_uid text 64
        sop_uid text 64
        study_uid_hash text 20
        series_uid_hash text 20
        instance_number integer
        content_date date
        content_time text
        image_type text
        image_orientation_patient text
        image_position_patient text
        slice_thickness number
        spacing_between_slices number
        slice_location number
        samples_per_pixel integer
        photometric_interpretation text
        rows integer
        columns integer
        bits_allocated integer
        bits_stored integer
        high_bit integer
        pixel_representation integer
        rescale_intercept number
        rescale_slope number
        rescale_type text
        window_center text
        window_width text
        transfer_syntax_uid text 64
        pixel_data_location text 1024
        thumbnail_location text 1024
        sop_class_uid text 64
        image_status text 32
        space_size integer
        created_time time
        updated_time time
        """
    ),
    key=("tenant_id", "study_uid", "series_uid", "sop_uid"),
    version="updated_time",
)

ACCESS = Table(
    "wado_access_log",
    _columns(
        """
        request_id text 36
        timestamp time
        tenant_id text 64
        user text
        user_id text
        method text 16
        route text
        path text
        query_params text
        resource_type text 16
        study_uid text
        series_uid text
        sop_uid text
        status integer
        duration_ms number
        content_length integer
        peer_addr text 45
        user_agent text
        headers text
        """
    ),
    key=("tenant_id", "request_id"),
    version="timestamp",
    when="timestamp",
)

TABLES: tuple[Table, ...] = (OBJECT, STATE, IMAGE, ACCESS)


class Grouping(StrEnum):
    """By what received objects are counted."""

    DAY = "day"
    MODALITY = "modality"
    AE_TITLE = "ae_title"
    TRANSFER_SYNTAX = "transfer_syntax"


class AccessGrouping(StrEnum):
    """By what requests are counted."""

    USER = "user"
    ROUTE = "route"


class Span(msgspec.Struct, frozen=True):
    """Which rows are counted: those of a tenant (empty: of all) received or asked from day `since` on, before `until`.

    Days are YYYY-MM-DD in UTC; empty is open.
    """

    tenant: str = ""
    since: str = ""
    until: str = ""


class Holding(msgspec.Struct, frozen=True):
    """Received objects of one label: how many different studies, how many objects (repeats too), and their bytes."""

    label: str
    studies: int
    objects: int
    bytes: int


class Use(msgspec.Struct, frozen=True):
    """Requests of one label: how many, how many of them failed (status from 400), bytes sent, and seconds in all."""

    label: str
    requests: int
    failures: int
    bytes: int
    seconds: float
