"""What is known of a patient, study or series when its instances disagree.

`keep-first` fills in what was empty; `replace` takes what came last. The columns of a level follow from its attributes,
so two entries with the same attributes say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dicomnode.model.attributes import Level, searched_at
from dicomnode.model.entry import Entry, Policy

COLUMNS: dict[Level, tuple[str, ...]] = {
    level: tuple(attribute.keyword for attribute in searched_at(level)) for level in Level
}


class Facts(msgspec.Struct, frozen=True):
    """What is known at one level: the attributes as DICOM JSON text, and each searched column, empty where unknown."""

    attributes: str
    columns: Mapping[str, str]


def facts(entry: Entry, level: Level) -> Facts:
    """Return what `entry` says at `level`; its UIDs come from its identity."""
    columns = {keyword: entry.columns.get(keyword, "") for keyword in COLUMNS[level]}
    if level is Level.PATIENT:
        return Facts(entry.fragments.patient, columns)
    if level is Level.STUDY:
        columns["StudyInstanceUID"] = entry.study_uid
        return Facts(entry.fragments.study, columns)
    if level is Level.SERIES:
        columns["SeriesInstanceUID"] = entry.series_uid
        return Facts(entry.fragments.series, columns)
    columns["SOPInstanceUID"] = entry.sop_uid
    columns["SOPClassUID"] = entry.sop_class_uid
    return Facts(entry.fragments.instance, columns)


def merged(old: Facts, new: Facts, policy: Policy) -> Facts:
    """Return what is known after `new` has come to `old`; `old` itself where nothing changes."""
    if policy is Policy.REPLACE:
        return old if old == new else new
    attributes = _filled(old.attributes, new.attributes)
    missing = {keyword: value for keyword, value in new.columns.items() if value and not old.columns.get(keyword)}
    if not missing and attributes is old.attributes:
        return old
    return Facts(attributes, {**old.columns, **missing})


def _filled(old: str, new: str) -> str:
    if old == new:
        return old
    there: dict[str, dict[str, Any]] = msgspec.json.decode(old)
    come: dict[str, dict[str, Any]] = msgspec.json.decode(new)
    missing = {tag: value for tag, value in come.items() if _adds(there.get(tag), value)}
    if not missing:
        return old
    return msgspec.json.encode(dict(sorted({**there, **missing}.items()))).decode()


def _adds(old: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    """Tell whether an element is new, or has a value where there was none but a VR. Source: PS3.18 F.2.2."""
    return old is None or (old.keys() <= {"vr"} and not new.keys() <= {"vr"})


def patient_identity(entry: Entry) -> str:
    """Return what makes a patient one within a tenant: Patient ID and its issuer; without an ID, the study."""
    if not entry.patient_id:
        return f"\x1f\x1f{entry.study_uid}"
    return f"{entry.patient_id}\x1f{entry.columns.get('IssuerOfPatientID', '')}"
