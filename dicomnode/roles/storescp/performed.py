"""Modality performed procedure steps: translates N-CREATE, N-SET and N-GET, and what went wrong (PS3.4 F.7, F.8)."""

from __future__ import annotations

import asyncio
from typing import Final

from dicomnode import metrics
from dicomnode.dicom.identifier import write_identifier
from dicomnode.dimse import status
from dicomnode.dimse.command import N_CREATE_RQ, N_GET_RQ, N_SET_RQ
from dicomnode.dimse.responder import Operations, Replies, Reply, Request
from dicomnode.errors import Full, NodeError, NotFound
from dicomnode.roles.storescp.attributes import attributes_of
from dicomnode.services.performed import (
    EmptyAttribute,
    Exists,
    InvalidValue,
    IsFinal,
    MissingAttribute,
    PerformedSteps,
)

PERFORMED_STEP: Final = "1.2.840.10008.3.1.2.3.3"
PERFORMED_STEP_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"

_MAY_NO_LONGER_BE_UPDATED = 0xA710  # an Error ID (PS3.4 F.7.2.2.2)

# The first that fits counts; anything else is a processing failure (PS3.7 10.1.3, 10.1.5).
_STATUSES: tuple[tuple[type[NodeError], int], ...] = (
    (MissingAttribute, status.MISSING_ATTRIBUTE),
    (EmptyAttribute, status.MISSING_ATTRIBUTE_VALUE),
    (InvalidValue, status.INVALID_ATTRIBUTE_VALUE),
    (Exists, status.DUPLICATE_SOP_INSTANCE),
    (NotFound, status.NO_SUCH_SOP_INSTANCE),
    (Full, status.RESOURCE_LIMITATION),
)


class PerformedScp:
    """Take in what modalities say of their steps."""

    def __init__(self, steps: PerformedSteps) -> None:
        self._steps = steps

    def operations(self) -> Operations:
        """Return what is answered."""
        return {
            (N_CREATE_RQ, PERFORMED_STEP): self.create,
            (N_SET_RQ, PERFORMED_STEP): self.set,
            (N_GET_RQ, PERFORMED_STEP): self.get,
            (N_GET_RQ, PERFORMED_STEP_RETRIEVE): self.get,
        }

    async def create(self, request: Request) -> Replies:
        """Keep a step that begins."""
        try:
            attributes = await attributes_of(request)
            uid = request.command.affected_sop_instance_uid
            uid = await self._steps.create(request.caller.tenant, uid, attributes)
        except NodeError as error:
            yield _refusal(error)
        else:
            yield Reply(status.SUCCESS, sop_instance_uid=uid)

    async def set(self, request: Request) -> Replies:
        """Change a step, while it goes on."""
        try:
            changes = await attributes_of(request)
            uid = request.command.requested_sop_instance_uid
            ignored = await self._steps.update(request.caller.tenant, uid, changes)
        except NodeError as error:
            yield _refusal(error)
        else:
            comment = f"kept, but for: {' '.join(ignored)}" if ignored else ""
            yield Reply(status.ATTRIBUTE_LIST_ERROR if ignored else status.SUCCESS, error_comment=comment)

    async def get(self, request: Request) -> Replies:
        """Answer with a step, or the attributes of it that are asked for."""
        try:
            step = await self._steps.get(request.caller.tenant, request.command.requested_sop_instance_uid)
            asked = [f"{tag:08X}" for tag in request.command.attributes]
            told = {tag: step[tag] for tag in asked or step if tag in step}
            data = await asyncio.to_thread(write_identifier, told, request.transfer_syntax_uid)
        except NodeError as error:
            yield _refusal(error)
        else:
            yield Reply(status.SUCCESS if len(told) >= len(asked) else status.ATTRIBUTES_NOT_SUPPORTED, data)


def _refusal(error: NodeError) -> Reply:
    metrics.failed("performed", error)
    if isinstance(error, IsFinal):
        comment = "Performed Procedure Step Object may no longer be updated"
        return Reply(status.PROCESSING_FAILURE, error_comment=comment, error_id=_MAY_NO_LONGER_BE_UPDATED)
    told = next((told for kind, told in _STATUSES if isinstance(error, kind)), status.PROCESSING_FAILURE)
    return Reply(told, error_comment=str(error))
