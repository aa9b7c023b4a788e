"""C-FIND on the modality worklist: translates identifiers to questions and entries to identifiers (PS3.4 K)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from dicomnode import metrics
from dicomnode.dicom.identifier import SPECIFIC_CHARACTER_SET, write_identifier
from dicomnode.dicom.item_query import answer, identifier_keys, parse_item_query
from dicomnode.dicom.matching import text_of
from dicomnode.dimse import status
from dicomnode.dimse.command import C_FIND_RQ
from dicomnode.dimse.responder import Operations, Replies, Reply, Request
from dicomnode.dimse.service import MODALITY_WORKLIST
from dicomnode.errors import BadRequest, NodeError
from dicomnode.model.steps import ScheduledStep
from dicomnode.roles.storescp.attributes import attributes_of
from dicomnode.services.worklist import Worklist

_BREATHE_EVERY = 20  # responses between two looks at what else there is to do
_FUZZY = 2  # the byte of the extended negotiation (PS3.4 K.5)


class WorklistScp:
    """Answer C-FIND from the worklist."""

    def __init__(self, worklist: Worklist) -> None:
        self._worklist = worklist

    def operations(self) -> Operations:
        """Return what is answered."""
        return {(C_FIND_RQ, MODALITY_WORKLIST): self.find}

    def agree(self, sop_class_uid: str, asked: bytes) -> bytes | None:
        """Return what is agreed of the extended negotiation that `asked` for; None for other SOP classes.

        Dates and times that are ranges are one range in any case, and names may be fuzzy; no time zones are adjusted.
        """
        if sop_class_uid != MODALITY_WORKLIST:
            return None
        return bytes(int(byte == 1 and can) for byte, can in zip(asked, (True, True, True, False), strict=False))

    async def find(self, request: Request) -> Replies:
        """Answer each entry that fits with a pending response, as far as the peer wants them."""
        try:
            identifier = await attributes_of(request)
            steps = await self._search(request, identifier)
        except NodeError as error:
            yield _refusal(error)
            return
        charset = "\\".join(text_of(value) for value in identifier.get(SPECIFIC_CHARACTER_SET, {}).get("Value", ()))
        for number, step in enumerate(steps):
            if request.cancellation.asked:
                yield Reply(status.CANCELLED)
                return
            told = answer(step.attributes, identifier)
            yield Reply(status.PENDING, write_identifier(told, request.transfer_syntax_uid, charset))
            if number % _BREATHE_EVERY == 0:
                await asyncio.sleep(0)
        yield Reply(status.SUCCESS)

    async def _search(self, request: Request, identifier: Mapping[str, Any]) -> Sequence[ScheduledStep]:
        fuzzy = request.extended[_FUZZY : _FUZZY + 1] == b"\x01"
        query = parse_item_query(identifier_keys(identifier), fuzzy=fuzzy)
        return await self._worklist.search(request.caller.tenant, query)


def _refusal(error: NodeError) -> Reply:
    """Return the last response to a question that failed (PS3.4 K.4.1.1.4)."""
    metrics.failed("worklist", error)
    if isinstance(error, BadRequest):
        return Reply(status.IDENTIFIER_DOES_NOT_MATCH, error_comment=str(error))
    return Reply(status.OUT_OF_RESOURCES, error_comment="the worklist cannot be read now")
