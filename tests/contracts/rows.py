"""Rows for the tests of warehouses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from dicomnode.model.messages import DicomImageMeta, DicomObjectMeta, DicomStateMeta, TransferStatus, WadoAccessLog
from dicomnode.model.uid_hash import uid_hash
from dicomnode.model.warehouse import ACCESS, IMAGE, OBJECT, STATE, Kind, Table

EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
WHEN = "2026-01-02T03:04:05.678+00:00"

# Texts that a careless quoting, escaping or comparing would change, merge or choke on.
HARD_TEXTS = (
    "", " ", "a", "A", "ä", "a\u0308", "a ", " a", "O'Brien", 'say "no"', "back\\slash", "\\", "\\N", "\\'", "'", "''",
    "NULL", "null", "None", "0", "-1", "true", "{}", "[1]", "%s", "%", "_", "$1", "?", ":a", "{a:String}", "--", "/*",
    ";", "'; DROP TABLE dicom_object_meta; --", "a\tb", "a\nb", "a\r\nb", "a\x00b", "\x00", "\x01", "\x1f", "\x7f",
    "\u0085", "\u2028", "\ufeff", "\ufffd", "\uffff", "Müller^Jürgen", "山田^太郎", "עברית", "Ω≈ç√", "👩‍⚕️",
    "\U0010ffff", "a,b", "a;b", "a|b", "`a`", "<b>", "&amp;", "2026-01-02", "1e5", "\\x41", "\\u0041", "\\n",
)  # fmt: skip


def object_row(number: int = 1, **told: Any) -> DicomObjectMeta:
    """Return the row of a received object; `number` makes it one of its own."""
    tenant, study = told.get("tenant_id", "default"), told.get("study_uid", "1.1")
    series = told.get("series_uid", f"{study}.1")
    name = f"{tenant}/20260102/{study}/{series}/1.{number}"
    found = DicomObjectMeta(
        trace_id=trace(number),
        worker_node_id="DICOM_STORE_SCP",
        tenant_id=tenant,
        patient_id="P1",
        study_uid=study,
        series_uid=series,
        sop_uid=f"1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        file_size=1000,
        file_path=f"{name}-{number:020d}.dcm",
        data_set_offset=400,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        transfer_syntax_uid=EXPLICIT,
        number_of_frames=1,
        created_time=WHEN,
        updated_time=WHEN,
        study_uid_hash=uid_hash(study),
        series_uid_hash=uid_hash(series),
        study_date="2026-01-01",
        source_ip="192.0.2.7",
        source_ae="CT1",
    )
    return msgspec.structs.replace(found, **told)


def state_row(series: str = "1.1.1", **told: Any) -> DicomStateMeta:
    """Return the row of a series."""
    study = told.get("study_uid", series.rpartition(".")[0])
    found = DicomStateMeta(
        tenant_id="default",
        patient_id="P1",
        study_uid=study,
        series_uid=series,
        study_uid_hash=uid_hash(study),
        series_uid_hash=uid_hash(series),
        created_time=WHEN,
        updated_time=WHEN,
        modality="CT",
    )
    return msgspec.structs.replace(found, **told)


def image_row(number: int = 1, **told: Any) -> DicomImageMeta:
    """Return the row of an instance."""
    found = DicomImageMeta(
        tenant_id="default",
        patient_id="P1",
        study_uid="1.1",
        series_uid="1.1.1",
        sop_uid=f"1.{number}",
        study_uid_hash=uid_hash("1.1"),
        series_uid_hash=uid_hash("1.1.1"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid=EXPLICIT,
        space_size=1000,
        created_time=WHEN,
        updated_time=WHEN,
        rows=512,
        columns=256,
    )
    return msgspec.structs.replace(found, **told)


def access_row(number: int = 1, **told: Any) -> WadoAccessLog:
    """Return the row of a request."""
    found = WadoAccessLog(
        request_id=trace(number),
        timestamp=WHEN,
        tenant_id="default",
        method="GET",
        route="/dicomweb/studies",
        path="/dicomweb/studies",
        status=200,
        duration_ms=12.5,
        content_length=300,
        user="jane",
    )
    return msgspec.structs.replace(found, **told)


def trace(number: int) -> str:
    """Return the `number`th trace id."""
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-8{text[17:20]}-{text[20:]}"


_OF = {OBJECT.name: object_row(), STATE.name: state_row(), IMAGE.name: image_row(), ACCESS.name: access_row()}


def filled(table: Table, fill: str, longest: int = 5000) -> msgspec.Struct:
    """Return a row of `table` whose texts are full of `fill`, as many characters as their columns have at most."""
    told = {
        column.name: fill * (column.width or longest)
        for column in table.columns
        if column.kind is Kind.TEXT and column.name != "transfer_status"
    }
    return msgspec.structs.replace(_OF[table.name], **told)


def consistent(table: Table, batches: Sequence[Sequence[msgspec.Struct]]) -> list[list[msgspec.Struct]]:
    """Return `batches` with every row of one key and version the same, as those of one message are."""
    first: dict[tuple[str, ...], msgspec.Struct] = {}
    names = (*table.key, table.version)
    return [[first.setdefault(tuple(getattr(row, name) for name in names), row) for row in batch] for batch in batches]


_tenants = st.sampled_from(["default", "default", "other"])
_days = st.sampled_from(["1969-12-31", "2025-12-31", "2026-01-01", "2026-01-02", "2026-02-28"])
_clock = st.sampled_from(["00:00:00.000+00:00", "12:00:00.001Z", "23:59:59.999+00:00"])
_times = st.builds("{}T{}".format, _days, _clock)
_series = st.sampled_from(["1.1.1", "1.1.2", "1.2.1"])
_labels = st.one_of(st.sampled_from(["", "CT1", "ct1", "MR"]), st.sampled_from(HARD_TEXTS))


@st.composite
def object_rows(draw: st.DrawFn) -> DicomObjectMeta:
    """Make receptions of which some are one and the same; the time of one stays what it is."""
    number, series = draw(st.integers(1, 12)), draw(_series)
    return object_row(
        number,
        tenant_id=draw(_tenants),
        study_uid=series[:3],
        series_uid=series,
        file_size=draw(st.integers(0, 10**6)),
        created_time=f"2026-01-0{number % 4 + 1}T23:59:59.999+00:00",
        updated_time=draw(_times),
        source_ae=draw(_labels)[:16],
        transfer_syntax_uid=draw(st.sampled_from([EXPLICIT, JPEG])),
        transfer_status=draw(st.sampled_from(TransferStatus)),
    )


@st.composite
def state_rows(draw: st.DrawFn) -> DicomStateMeta:
    """Make rows of few series."""
    return state_row(
        draw(_series),
        tenant_id=draw(_tenants),
        modality=draw(st.sampled_from(["", "CT", "MR"])),
        updated_time=draw(_times),
        patient_weight=draw(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))),
    )


@st.composite
def access_rows(draw: st.DrawFn) -> WadoAccessLog:
    """Make requests of which some are one and the same; the time of one stays what it is."""
    number = draw(st.integers(1, 12))
    return access_row(
        number,
        tenant_id=draw(_tenants),
        timestamp=f"2026-01-0{number % 4 + 1}T00:00:00.000+00:00",
        user=draw(_labels),
        route=draw(_labels),
        status=draw(st.sampled_from([200, 304, 399, 400, 404, 500])),
        duration_ms=draw(st.floats(0, 1e6)),
        content_length=draw(st.integers(0, 10**9)),
    )
