"""What the consumer hands to the database, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from dicomnode.model.instance import Fragments


class Policy(StrEnum):
    """Which of two different objects with one SOP Instance UID is served. Neither is ever thrown away."""

    KEEP_FIRST = "keep-first"
    REPLACE = "replace"


class Fate(StrEnum):
    """What became of a received object.

    NEW, REPLACED: it is the one served. ASIDE: it differs from the one served and is kept beside it (keep-first), as
    the earlier one is after REPLACED. DUPLICATE: its data set equals one already kept, so its file may be deleted once
    the transaction is committed. AGAIN: the same reception was indexed before (a message delivered twice).
    """

    NEW = "new"
    REPLACED = "replaced"
    ASIDE = "aside"
    DUPLICATE = "duplicate"
    AGAIN = "again"


class Entry(msgspec.Struct, frozen=True):
    """One reception, ready to be indexed: identity, where it is, and its attributes.

    `columns` maps the keyword of each searched attribute to its normalised text; absent means empty.
    """

    tenant: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    key: str
    size: int
    data_set_offset: int
    sha256: str
    number_of_frames: int
    received: str
    fragments: Fragments
    columns: Mapping[str, str]


class Counts(msgspec.Struct, frozen=True):
    """How much the index holds; `bytes` is the size of all kept files, also those set aside."""

    patients: int
    studies: int
    series: int
    instances: int
    bytes: int
