"""Performed procedure steps: what modalities say that they do and have done, one a file of DICOM JSON (PS3.4 F)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dicomnode import log
from dicomnode.dicom.identifier import SPECIFIC_CHARACTER_SET
from dicomnode.dicom.item_query import ItemQuery
from dicomnode.dicom.uid import component
from dicomnode.documents import SUFFIX, Documents
from dicomnode.errors import BadRequest, Corrupt, NodeError, NotFound
from dicomnode.model.steps import (
    PERFORMED_STATUS,
    SCHEDULED_STEP_ATTRIBUTES,
    STUDY_INSTANCE_UID,
    Performed,
    first_text,
    items_of,
    scheduled_identities,
)

_LOG = log.get("performed")
_SOP_INSTANCE_UID = "00080018"
_MOST_SCANNED = 10_000
_MOST_BYTES = 64 * 1024 * 1024

# What an SCU shall say at first (PS3.4 table F.7.2-1, N-CREATE type 1).
NEEDED = {
    "00080060": "Modality",
    "00400241": "PerformedStationAETitle",
    "00400244": "PerformedProcedureStepStartDate",
    "00400245": "PerformedProcedureStepStartTime",
    PERFORMED_STATUS: "PerformedProcedureStepStatus",
    "00400253": "PerformedProcedureStepID",
    SCHEDULED_STEP_ATTRIBUTES: "ScheduledStepAttributesSequence",
}

# What N-SET may not change (the same table): who, what was scheduled, where and when it began.
FIXED = frozenset(
    {
        *("00080005", "00080016", "00080018", "00080060", "00081120", "00200010", "00400270"),
        *("00100010", "00100020", "00100021", "00100030", "00100040"),
        *("00400241", "00400242", "00400243", "00400244", "00400245", "00400253"),
    }
)


class MissingAttribute(BadRequest):
    """The step lacks an attribute that it must have."""


class EmptyAttribute(BadRequest):
    """An attribute of the step that must have a value has none."""


class InvalidValue(BadRequest):
    """An attribute of the step has a value that it may not have."""


class Exists(BadRequest):
    """There is a performed step of this UID already."""


class IsFinal(BadRequest):
    """The step is completed or discontinued and may no longer be updated."""


class Scheduled(Protocol):
    """The worklist, as far as performed steps change it."""

    async def follow(self, tenant: str, study_uid: str, step_id: str, status: str) -> int:
        """Have the status in the entries of this step; return how many there are."""


class PerformedSteps:
    """The performed steps of every tenant, each a DICOM JSON object under its SOP Instance UID."""

    def __init__(self, documents: Documents, scheduled: Scheduled) -> None:
        self._documents = documents
        self._scheduled = scheduled

    async def create(self, tenant: str, sop_instance_uid: str, attributes: Mapping[str, Any]) -> str:
        """Keep a step that begins, IN PROGRESS; return its UID, made up where `sop_instance_uid` is "".

        It survives a crash, and the worklist entries it refers to are STARTED; those that cannot be written stay.

        Raises: MissingAttribute, EmptyAttribute, InvalidValue, Exists, Unavailable, Full.
        """
        _check(attributes)
        uid = sop_instance_uid or f"2.25.{uuid.uuid4().int}"  # PS3.5 B.2
        kept, new = await asyncio.to_thread(self._create, tenant, uid, attributes)
        await self._follow(tenant, kept)
        if not new:
            raise Exists(Exists.__doc__)
        return uid

    async def update(self, tenant: str, sop_instance_uid: str, changes: Mapping[str, Any]) -> Sequence[str]:
        """Have the step say `changes`; return the tags of those that were passed over, as no step may change them.

        It survives a crash, and so does the status of the worklist entries it refers to, where they can be written.

        Raises: NotFound, IsFinal, InvalidValue, EmptyAttribute, Unavailable, Full, Corrupt.
        """
        kept, ignored = await asyncio.to_thread(self._update, tenant, sop_instance_uid, changes)
        await self._follow(tenant, kept)
        return ignored

    async def get(self, tenant: str, sop_instance_uid: str) -> Mapping[str, Any]:
        """Return a step. Raises: NotFound, Unavailable, Corrupt."""
        return await asyncio.to_thread(self._read, tenant, sop_instance_uid)

    async def search(self, tenant: str, query: ItemQuery, most: int) -> Sequence[Mapping[str, Any]]:
        """Return up to `most` steps that fit, the last changed first, of the last 10,000, and up to 64 MiB of them.

        Raises: Unavailable.
        """
        return await asyncio.to_thread(self._search, tenant, query, most)

    async def _follow(self, tenant: str, kept: Mapping[str, Any]) -> None:
        status = Performed(first_text(kept, PERFORMED_STATUS))
        for study_uid, step_id in scheduled_identities(kept):
            try:
                await self._scheduled.follow(tenant, study_uid, step_id, status.of_scheduled)
            except NodeError as error:
                # What was done is kept; the modality must not say it again because a list cannot be written.
                _LOG.warning("worklist.behind", reason=str(error))

    # In threads.

    def _create(self, tenant: str, uid: str, attributes: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        kept = dict(sorted({**attributes, _SOP_INSTANCE_UID: {"vr": "UI", "Value": [uid]}}.items()))
        kept.pop(SPECIFIC_CHARACTER_SET, None)
        if self._documents.write(tenant, _file(uid), _encoded(kept), new=True):
            return kept, True
        # Perhaps it was kept by a try before a crash, which did not come as far as the worklist.
        return self._read(tenant, uid), False

    def _read(self, tenant: str, uid: str) -> dict[str, Any]:
        body = self._documents.read(tenant, _file(uid))
        if body is None:
            raise NotFound("there is no such performed procedure step")
        return _decoded(body)

    def _update(self, tenant: str, uid: str, changes: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
        with self._documents.alone():
            old = self._read(tenant, uid)
            if first_text(old, PERFORMED_STATUS) != Performed.IN_PROGRESS:
                raise IsFinal(IsFinal.__doc__)
            if PERFORMED_STATUS in changes:
                _check_status(changes)
            ignored = sorted(tag for tag in FIXED & changes.keys() if _differs(old.get(tag), changes[tag]))
            allowed = {tag: element for tag, element in changes.items() if tag not in FIXED}
            kept = dict(sorted({**old, **allowed}.items()))
            self._documents.write(tenant, _file(uid), _encoded(kept))
            return kept, [tag for tag in ignored if tag != SPECIFIC_CHARACTER_SET]

    def _search(self, tenant: str, query: ItemQuery, most: int) -> Sequence[Mapping[str, Any]]:
        found, size = list[Mapping[str, Any]](), 0
        for listed in self._documents.listed(tenant)[:_MOST_SCANNED]:
            if len(found) >= most or size + listed.size > _MOST_BYTES:
                break
            body = self._documents.read(tenant, listed.file)
            try:
                step = _decoded(body or b"")
            except Corrupt as error:
                _LOG.warning("performed.unreadable", file=listed.file, reason=str(error))
                continue
            if query.accepts(step):
                found.append(step)
                size += listed.size
        return found


def _check(attributes: Mapping[str, Any]) -> None:
    """Raise what is wrong with a step that begins."""
    missing = [keyword for tag, keyword in NEEDED.items() if tag not in attributes]
    if missing:
        raise MissingAttribute(f"missing: {', '.join(missing)}")
    empty = [keyword for tag, keyword in NEEDED.items() if not attributes[tag].get("Value")]
    if empty:
        raise EmptyAttribute(f"without a value: {', '.join(empty)}")
    for item in items_of(attributes, SCHEDULED_STEP_ATTRIBUTES):
        if STUDY_INSTANCE_UID not in item:
            raise MissingAttribute("missing: StudyInstanceUID in ScheduledStepAttributesSequence")
        if not first_text(item, STUDY_INSTANCE_UID):
            raise EmptyAttribute("without a value: StudyInstanceUID in ScheduledStepAttributesSequence")
    if _check_status(attributes) is not Performed.IN_PROGRESS:
        raise InvalidValue("PerformedProcedureStepStatus must be IN PROGRESS at first")


def _check_status(attributes: Mapping[str, Any]) -> Performed:
    told = first_text(attributes, PERFORMED_STATUS)
    if not told:
        raise EmptyAttribute("without a value: PerformedProcedureStepStatus")
    try:
        return Performed(told)
    except ValueError:
        raise InvalidValue("PerformedProcedureStepStatus must be IN PROGRESS, COMPLETED or DISCONTINUED") from None


def _differs(old: Any, new: Any) -> bool:
    return ((old or {}).get("Value") or None) != (new.get("Value") or None)


def _file(uid: str) -> str:
    return component(uid) + SUFFIX


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
        Performed(first_text(found, PERFORMED_STATUS))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise Corrupt("performed", "the file of a step was damaged or changed") from None
    return found


def _encoded(attributes: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(attributes), indent=2) + b"\n"
