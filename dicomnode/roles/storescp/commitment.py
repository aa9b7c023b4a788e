"""Storage commitment as a door: requests come as N-ACTION, and reports go out by `Reports` (PS3.4 J.3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from dicomnode import metrics
from dicomnode.dimse import status
from dicomnode.dimse.command import N_ACTION_RQ
from dicomnode.dimse.responder import Operations, Replies, Reply, Request
from dicomnode.errors import BadRequest, Full, NodeError, NotFound
from dicomnode.model.commitment import Reference, Transaction
from dicomnode.model.instance import receipt_id
from dicomnode.model.steps import first_text, items_of
from dicomnode.roles.storescp.attributes import attributes_of
from dicomnode.roles.storescp.reports import STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE, Line, Reports
from dicomnode.services.commitment import MOST_REFERENCES

_REQUEST_STORAGE_COMMITMENT = 1
_TRANSACTION_UID = "00081195"
_REFERENCED_SOP_SEQUENCE = "00081199"
_SOP_CLASS_UID, _SOP_INSTANCE_UID = "00081150", "00081155"
_LONGEST_UID = 128


class CommitmentScp:
    """Take requests in; the report of each follows."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    async def __aenter__(self) -> Self:
        await self._reports.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reports.close()

    def operations(self) -> Operations:
        """Return what is answered."""
        return {(N_ACTION_RQ, STORAGE_COMMITMENT): self.act}

    async def act(self, request: Request) -> Replies:
        """Take a request in, so that its report survives a crash; only then say so."""
        try:
            transaction = await self._read(request)
            await self._reports.owe(transaction)
        except NodeError as error:
            yield _refusal(error)
            return
        try:
            yield Reply(status.SUCCESS)
        finally:
            # Also where the peer went away before it was told: what was promised is kept.
            self._reports.start(transaction, Line(request.partner, request.context_id, request.transfer_syntax_uid))

    async def _read(self, request: Request) -> Transaction:
        command, caller = request.command, request.caller
        if command.requested_sop_instance_uid != WELL_KNOWN_INSTANCE:
            raise NotFound("storage commitment has one SOP instance")
        if command.action_type_id != _REQUEST_STORAGE_COMMITMENT:
            raise NoSuchAction(NoSuchAction.__doc__)
        attributes = await attributes_of(request)
        uid, references = await asyncio.to_thread(_read_information, attributes)
        name, now = receipt_id(), time.time()
        return Transaction(name, uid, caller.tenant, caller.calling_aet, caller.called_aet, now, references)


class NoSuchAction(BadRequest):
    """The action is none of storage commitment."""


def _read_information(attributes: Mapping[str, Any]) -> tuple[str, tuple[Reference, ...]]:
    """Return the Transaction UID and what is asked about (PS3.4 table J.3-1). Raises: BadRequest, Full."""
    uid = first_text(attributes, _TRANSACTION_UID)
    references = _references(items_of(attributes, _REFERENCED_SOP_SEQUENCE))
    if not 0 < len(uid) <= _LONGEST_UID:
        raise BadRequest("there is no Transaction UID")
    if not references:
        raise BadRequest("there is no Referenced SOP Sequence")
    return uid, tuple(references)


def _references(items: Sequence[Mapping[str, Any]]) -> list[Reference]:
    if len(items) > MOST_REFERENCES:
        raise Full("commitment", f"more than {MOST_REFERENCES} objects")
    references = [Reference(first_text(item, _SOP_CLASS_UID), first_text(item, _SOP_INSTANCE_UID)) for item in items]
    if any(not one.sop_class_uid or not one.sop_instance_uid for one in references):
        raise BadRequest("a reference lacks its SOP class or instance UID")
    if any(len(uid) > _LONGEST_UID for one in references for uid in (one.sop_class_uid, one.sop_instance_uid)):
        raise BadRequest("a reference has a UID that is none")
    return references


# PS3.7 10.1.4.1.10. The first that fits counts.
_STATUSES: tuple[tuple[type[NodeError], int], ...] = (
    (NotFound, status.NO_SUCH_SOP_INSTANCE),
    (NoSuchAction, status.NO_SUCH_ACTION),
    (BadRequest, status.INVALID_ARGUMENT_VALUE),
    (Full, status.RESOURCE_LIMITATION),
)


def _refusal(error: NodeError) -> Reply:
    metrics.failed("commitment", error)
    told = next((told for kind, told in _STATUSES if isinstance(error, kind)), status.PROCESSING_FAILURE)
    return Reply(told, error_comment=str(error))
