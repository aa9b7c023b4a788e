"""What a store request is told of each of its parts (PS3.18 10.5.3, I.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dicomnode.errors import BadInstance, Mismatch, NodeError
from dicomnode.model.instance import Stored
from dicomnode.roles.server.problem import status_of

# PS3.18 table I.2-2, PS3.4 table B.2-1.
OUT_OF_RESOURCES = 0xA700
WRONG_CLASS = 0xA900
WRONG_STUDY = 0xA901
CANNOT_UNDERSTAND = 0xC000
WARNED = 0xB007
_MOST_DETAIL = 64


class Failure(msgspec.Struct, frozen=True):
    """A part that was not stored. The UIDs are those of its file meta information, empty where it has none."""

    error: NodeError
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


Outcome = Stored | Failure


def status(outcomes: Sequence[Outcome]) -> int:
    """Return the status of a request with these outcomes (PS3.18 table 10.5.3-1)."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if not failures:
        return 200
    if len(failures) < len(outcomes):
        return 202
    ours = {status_of(failure.error) for failure in failures}
    return max(ours) if min(ours) >= 500 else 409


def reply(outcomes: Sequence[Outcome], base_url: str, *, to_study: bool) -> dict[str, Any]:
    """Return the Store Instances Response as a DICOM JSON object; RetrieveURLs are below `base_url`."""
    stored = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    known = [failure for failure in failures if failure.sop_instance_uid]
    other = [failure for failure in failures if not failure.sop_instance_uid]
    answer: dict[str, Any] = {}
    studies = {one.study_uid for one in stored}
    if len(studies) == 1:
        answer["00081190"] = _element("UR", f"{base_url}/studies/{studies.pop()}")
    if known:
        answer["00081198"] = _sequence([_failed(failure, to_study=to_study) for failure in known])
    if stored:
        answer["00081199"] = _sequence([_referenced(one, base_url) for one in stored])
    if other:
        answer["0008119A"] = _sequence([_reason(failure, to_study=to_study) for failure in other])
    return dict(sorted(answer.items()))


def _element(vr: str, value: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}


def _referenced(one: Stored, base_url: str) -> dict[str, Any]:
    url = f"{base_url}/studies/{one.study_uid}/series/{one.series_uid}/instances/{one.sop_instance_uid}"
    item = {
        "00081150": _element("UI", one.sop_class_uid),
        "00081155": _element("UI", one.sop_instance_uid),
        "00081190": _element("UR", url),
    }
    if one.warnings:
        item["00081196"] = _element("US", WARNED)
        item["00741048"] = _comments(one.warnings)
    return item


def _failed(failure: Failure, *, to_study: bool) -> dict[str, Any]:
    uids = {
        "00081155": _element("UI", failure.sop_instance_uid),
        **({"00081150": _element("UI", failure.sop_class_uid)} if failure.sop_class_uid else {}),
    }
    return dict(sorted({**uids, **_reason(failure, to_study=to_study)}.items()))


def _reason(failure: Failure, *, to_study: bool) -> dict[str, Any]:
    return {
        "00081197": _element("US", _reason_code(failure.error, to_study=to_study)),
        "00741048": _comments((str(failure.error),)),
    }


def _reason_code(error: NodeError, *, to_study: bool) -> int:
    if isinstance(error, Mismatch):
        return WRONG_STUDY if to_study else WRONG_CLASS
    return CANNOT_UNDERSTAND if isinstance(error, BadInstance) else OUT_OF_RESOURCES


def _comments(sentences: Sequence[str]) -> dict[str, Any]:
    """Return FailedAttributesSequence with an ErrorComment each, where others put their sentences too."""
    return _sequence([{"00000902": _element("LO", sentence[:_MOST_DETAIL])} for sentence in sentences[:20]])
