"""UIDs: what is a valid one, how one becomes a path component, and which name storage SOP classes."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from pydicom._uid_dict import UID_dictionary

MAX_UID_BYTES: Final = 1024
"""A "UID" longer than this is refused outright; between 65 and this many bytes it works as an opaque identifier."""

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*", re.ASCII)

# Storage classes younger than the dictionary of the pydicom we build upon.
_RECENT = (
    "1.2.840.10008.5.1.4.1.1.6.3",
    "1.2.840.10008.5.1.4.1.1.9.1.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.66.8",
)

# Named "Storage", yet of the Non-Patient Object Storage service (PS3.4 GG): they belong to no study.
_NON_PATIENT = (
    "1.2.840.10008.5.1.4.1.1.200.1",
    "1.2.840.10008.5.1.4.1.1.200.3",
    "1.2.840.10008.5.1.4.1.1.200.7",
    "1.2.840.10008.5.1.4.1.1.201.1",
)


def is_uid(text: str) -> bool:
    """Tell whether `text` is a valid UID: digits and dots, at most 64, no empty component, no leading zero.

    Source: PS3.5 9.1.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_registered(text: str) -> bool:
    """Tell whether the standard has given this UID a meaning (PS3.6 annex A)."""
    return text in UID_dictionary


def component(text: str) -> str:
    """Return a path component that stands for `text`: the UID itself, or a digest of what is no valid UID."""
    if is_uid(text):
        return text
    return "x" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _storage_sop_classes() -> frozenset[str]:
    roots = ("1.2.840.10008.5.1.4.1.1.", "1.2.840.10008.5.1.4.34.", "1.2.840.10008.5.1.1.")
    found = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and uid.startswith(roots)
    }
    return frozenset(found.union(_RECENT).difference(_NON_PATIENT))


STORAGE_SOP_CLASSES: Final = _storage_sop_classes()
"""Every storage SOP class of PS3.4 B.5, also the retired ones, as senders still have them."""


def is_storage_sop_class(uid: str) -> bool:
    """Tell whether `uid` names a standard storage SOP class."""
    return uid in STORAGE_SOP_CLASSES
