"""The messages that roles send one another, one JSON object each.

Field names and meanings are those of seed 0's tables, mended: nothing is cut off silently, times are UTC
RFC 3339, and the indexed attributes travel along so that the consumer need not read the object again.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

import msgspec

from dicomnode.model.instance import Arrival, Fragments, Header, receipt_id, receipt_of, trace_id
from dicomnode.model.uid_hash import uid_hash

STORAGE_QUEUE = "storage_queue"
LOG_QUEUE = "log_queue"
STATE_QUEUE = "dicom_state_queue"
IMAGE_QUEUE = "dicom_image_queue"
ACCESS_QUEUE = "webapi_access_queue"
TRANSFER_QUEUE = "dicom_transfer_queue"

# The group that indexes what `storage_queue` tells of; whoever waits for the index waits for it.
INDEXING_GROUP = "consumer"

# What doors publish. It goes through a log on this machine where the broker is elsewhere; the group empties that.
RELAYED = (STORAGE_QUEUE, LOG_QUEUE, ACCESS_QUEUE)
RELAY_GROUP = "relay"


_NOTHING = msgspec.Raw(b"{}")


class Attributes(msgspec.Struct, frozen=True):
    """`Fragments` within a message: JSON as it stands, neither quoted nor read on the way."""

    patient: msgspec.Raw = _NOTHING
    study: msgspec.Raw = _NOTHING
    series: msgspec.Raw = _NOTHING
    instance: msgspec.Raw = _NOTHING

    @classmethod
    def of(cls, fragments: Fragments) -> Attributes:
        """Return `fragments` for a message."""
        raw = msgspec.Raw
        return cls(raw(fragments.patient), raw(fragments.study), raw(fragments.series), raw(fragments.instance))

    def fragments(self) -> Fragments:
        """Return what the message says, as text."""
        return Fragments(
            str(self.patient, "utf-8"),
            str(self.study, "utf-8"),
            str(self.series, "utf-8"),
            str(self.instance, "utf-8"),
        )


class TransferStatus(StrEnum):
    """Whether an object is kept in a transfer syntax that viewers show, as seed 0 calls it."""

    NOT_NEEDED = "NoNeedTransfer"
    NEEDED = "NeedTransfer"
    DONE = "Success"
    FAILED = "Failed"


class DicomObjectMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """One received object, also one that repeats an earlier one. Topics `storage_queue`, `log_queue`.

    `sha256` is the hex digest of the data set (the file without preamble and file meta information), which starts
    at byte `data_set_offset` of the file; `file_size` is the whole file's, in bytes. `target_ts` is the transfer syntax
    that it is to have, or has, besides its own. `attributes` are there on `storage_queue` only.
    """

    trace_id: str
    worker_node_id: str
    tenant_id: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    file_size: int
    file_path: str
    data_set_offset: int
    sha256: str
    transfer_syntax_uid: str
    number_of_frames: int
    created_time: str
    updated_time: str = ""
    study_uid_hash: str = ""
    series_uid_hash: str = ""
    accession_number: str = ""
    study_date: str | None = None
    target_ts: str = ""
    transfer_status: TransferStatus = msgspec.field(default_factory=lambda: TransferStatus.NOT_NEEDED)
    source_ip: str = ""
    source_ae: str = ""
    attributes: Attributes = Attributes()


class DicomStateMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the archive knows of one series, its study and its patient. Topic `dicom_state_queue`.

    Nothing is cut off: a text is as it was received, of several values the first or, where seed 0 keeps them all,
    joined by backslashes. A date that is none is null, and stands in `study_date_origin` as it came.
    """

    tenant_id: str
    patient_id: str
    study_uid: str
    series_uid: str
    study_uid_hash: str
    series_uid_hash: str
    created_time: str
    updated_time: str
    study_date_origin: str = ""
    patient_name: str = ""
    patient_sex: str = ""
    patient_birth_date: str | None = None
    patient_birth_time: str = ""
    patient_age: str = ""
    patient_size: float | None = None
    patient_weight: float | None = None
    pregnancy_status: int = 0
    study_date: str | None = None
    study_time: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    modality: str = ""
    series_number: int = 0
    series_date: str | None = None
    series_time: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    protocol_name: str = ""
    series_related_instances: int = 0


class DicomImageMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the archive knows of one instance, also one that is no image. Topic `dicom_image_queue`.

    `space_size` is the size of the file in bytes; `created_time` and `updated_time` are when it was received.
    """

    tenant_id: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    study_uid_hash: str
    series_uid_hash: str
    sop_class_uid: str
    transfer_syntax_uid: str
    space_size: int
    created_time: str
    updated_time: str
    instance_number: int = 0
    content_date: str | None = None
    content_time: str = ""
    image_type: str = ""
    image_orientation_patient: str = ""
    image_position_patient: str = ""
    slice_thickness: float | None = None
    spacing_between_slices: float | None = None
    slice_location: float | None = None
    samples_per_pixel: int = 0
    photometric_interpretation: str = ""
    rows: int = 0
    columns: int = 0
    bits_allocated: int = 0
    bits_stored: int = 0
    high_bit: int = 0
    pixel_representation: int = 0
    rescale_intercept: float | None = None
    rescale_slope: float | None = None
    rescale_type: str = ""
    window_center: str = ""
    window_width: str = ""
    pixel_data_location: str = ""
    thumbnail_location: str = ""
    image_status: str = msgspec.field(default_factory=lambda: "ACTIVE")


class WadoAccessLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request at the web door that was answered. Topic `webapi_access_queue`.

    `headers` is JSON, without those that carry a secret; `route` is the template that matched, `path` what was asked.
    `content_length` counts the bytes of the answer's body; `peer_addr` is the client's, behind trusted proxies too.
    """

    request_id: str
    timestamp: str
    tenant_id: str
    method: str
    route: str
    path: str
    status: int
    duration_ms: float
    content_length: int = 0
    query_params: str = ""
    user: str = ""
    user_id: str = ""
    resource_type: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    peer_addr: str = ""
    user_agent: str = ""
    headers: str = ""


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that could not be worked on, with the reason. Topic `<topic>.dead`."""

    topic: str
    key: str
    body: str
    error: str
    attempts: int
    first_time: str
    last_time: str


def utc_now() -> str:
    """Return the time in UTC as RFC 3339 has it, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def iso_date(text: str) -> str | None:
    """Return the DICOM date `text` (VR DA) as YYYY-MM-DD; None for what is no date."""
    return _iso_date(text) if len(text) == 8 else None


@lru_cache(1024)
def _iso_date(text: str) -> str | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])).isoformat()
    except ValueError:
        return None


def object_meta(arrival: Arrival, header: Header, key: str, offset: int, length: int, sha256: str) -> DicomObjectMeta:
    """Return the message of an object kept under `key`, its data set `length` bytes from byte `offset`.

    Its `trace_id` and `created_time` are those of the reception that `key` belongs to, whenever the message is made.
    """
    receipt = receipt_of(key) or receipt_id()
    created = _time_of(receipt)
    return DicomObjectMeta(
        trace_id=trace_id(receipt),
        worker_node_id=arrival.door.value,
        tenant_id=arrival.tenant,
        patient_id=header.patient_id,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        study_uid_hash=uid_hash(header.study_uid),
        series_uid_hash=uid_hash(header.series_uid),
        file_size=offset + length,
        file_path=key,
        data_set_offset=offset,
        sha256=sha256,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        number_of_frames=header.number_of_frames,
        created_time=created,
        updated_time=max(created, utc_now()),
        accession_number=header.accession_number,
        study_date=iso_date(header.study_date),
        source_ip=arrival.source_ip,
        source_ae=arrival.source_aet,
        attributes=Attributes.of(header.fragments),
    )


def _time_of(receipt: str) -> str:
    return datetime.fromtimestamp(int(receipt[:10], 32) / 1000, UTC).isoformat(timespec="milliseconds")


encode = msgspec.json.Encoder().encode
decode_object_meta = msgspec.json.Decoder(DicomObjectMeta).decode


def without_attributes(meta: DicomObjectMeta) -> DicomObjectMeta:
    """Return `meta` as `log_queue` has it."""
    return msgspec.structs.replace(meta, attributes=Attributes())


def transferred(meta: DicomObjectMeta, status: TransferStatus) -> DicomObjectMeta:
    """Return `meta` as `log_queue` has it when the object was converted, or was not: later than `meta` by any clock."""
    now, before = utc_now(), meta.updated_time or meta.created_time
    if now <= before:
        now = (datetime.fromisoformat(before) + timedelta(milliseconds=1)).isoformat(timespec="milliseconds")
    return msgspec.structs.replace(meta, attributes=Attributes(), transfer_status=status, updated_time=now)


def dead_topic(topic: str) -> str:
    """Return the name of the topic that takes what `topic`'s workers gave up."""
    return f"{topic}.dead"
