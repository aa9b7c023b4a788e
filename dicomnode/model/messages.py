"""The messages that roles send one another, one JSON object each.

Field names and meanings are those of seed 0's tables, mended: nothing is cut off silently, times are UTC
RFC 3339, and the indexed attributes travel along so that the consumer need not read the object again.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from dicomnode.model.instance import Arrival, Fragments, Header, trace_id

STORAGE_QUEUE = "storage_queue"
LOG_QUEUE = "log_queue"
STATE_QUEUE = "dicom_state_queue"
IMAGE_QUEUE = "dicom_image_queue"
ACCESS_QUEUE = "webapi_access_queue"

# The group that indexes what `storage_queue` tells of; whoever waits for the index waits for it.
INDEXING_GROUP = "consumer"


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


class DicomObjectMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """One received object, also one that repeats an earlier one. Topics `storage_queue` and `log_queue`.

    `sha256` is the hex digest of the data set (the file without preamble and file meta information), which starts
    at byte `data_set_offset` of the file; `file_size` is the whole file's, in bytes.
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
    accession_number: str = ""
    study_date: str = ""
    target_ts: str = ""
    transfer_status: str = "NoNeedTransfer"
    source_ip: str = ""
    source_ae: str = ""
    attributes: Attributes = Attributes()


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


def object_meta(arrival: Arrival, header: Header, key: str, offset: int, length: int, sha256: str) -> DicomObjectMeta:
    """Return the message of an object kept under `key`, its data set `length` bytes from byte `offset`."""
    return DicomObjectMeta(
        trace_id=trace_id(),
        worker_node_id=arrival.door.value,
        tenant_id=arrival.tenant,
        patient_id=header.patient_id,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        file_size=offset + length,
        file_path=key,
        data_set_offset=offset,
        sha256=sha256,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        number_of_frames=header.number_of_frames,
        created_time=utc_now(),
        accession_number=header.accession_number,
        study_date=header.study_date,
        source_ip=arrival.source_ip,
        source_ae=arrival.source_aet,
        attributes=Attributes.of(header.fragments),
    )


encode = msgspec.json.Encoder().encode
decode_object_meta = msgspec.json.Decoder(DicomObjectMeta).decode


def dead_topic(topic: str) -> str:
    """Return the name of the topic that takes what `topic`'s workers gave up."""
    return f"{topic}.dead"
