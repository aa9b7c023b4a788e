"""C-FIND on the patient and study roots: translates identifiers to questions and rows to identifiers (PS3.4 C.4.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from dicomnode import metrics
from dicomnode.config import QueryTable, StoreScpTable
from dicomnode.dicom.identifier import SPECIFIC_CHARACTER_SET
from dicomnode.dicom.item_query import MOST_KEYS, identifier_keys
from dicomnode.dicom.reply import INSTANCE_AVAILABILITY, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, ReplyWriter, Wanted
from dicomnode.dimse import status
from dicomnode.dimse.command import C_FIND_RQ
from dicomnode.dimse.responder import Operations, Replies, Reply, Request
from dicomnode.errors import BadRequest, NodeError, PluginError
from dicomnode.model.attributes import BY_TAG, Level
from dicomnode.roles.storescp.hierarchy import (
    FIND,
    agreed,
    check_unique_keys,
    identifier_of,
    own_title,
    read_level,
    texts_at,
    understood,
)
from dicomnode.services.find import Find, Question, Stream

_BREATHE_EVERY = 50  # responses between two looks at what else there is to do
_ONLINE = "ONLINE"
_NO_MATCHING = frozenset({RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY})


class Asked(msgspec.Struct, frozen=True):
    """A question as it was read: what to find, what each response is to hold, and keys that nothing here matches."""

    question: Question
    wanted: Wanted
    unmatched: bool
    vain: bool


class QueryScp:
    """Answer C-FIND from the index."""

    def __init__(self, table: QueryTable, door: StoreScpTable, find: Find) -> None:
        self._table = table
        self._door = door
        self._find = find

    def operations(self) -> Operations:
        """Return what is answered."""
        return {(C_FIND_RQ, sop_class): self.find for sop_class in FIND}

    async def find(self, request: Request) -> Replies:
        """Answer each match with a pending response, as far as the peer wants them."""
        try:
            asked = await understood(request, self._read)
            stream = await self._find.stream(asked.question)
        except NodeError as error:
            yield _refusal(error)
            return
        pending = status.PENDING_WITH_WARNING if asked.unmatched or stream.unmatched else status.PENDING
        async with aclosing(self._matches(request, asked, stream, pending)) as replies:
            async for reply in replies:
                yield reply

    async def _matches(self, request: Request, asked: Asked, stream: Stream, pending: int) -> Replies:
        writer, most, sent = ReplyWriter(asked.wanted), self._table.results, 0
        try:
            async for found in _none() if asked.vain else stream.found:
                if request.cancellation.asked:
                    yield Reply(status.CANCELLED)
                    return
                if most and sent == most:
                    yield Reply(status.OUT_OF_RESOURCES, error_comment=f"more than {most} matches; ask for less")
                    return
                yield Reply(pending, writer.write(found))
                sent += 1
                if sent % _BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
        except NodeError as error:
            yield _refusal(error)
        else:
            yield Reply(status.CANCELLED if request.cancellation.asked else status.SUCCESS)

    def _read(self, request: Request) -> Asked:
        """Return what is asked. Raises: BadRequest."""
        identifier = identifier_of(request)
        model = FIND[request.sop_class_uid]
        level = read_level(identifier, model)
        relational = agreed(request.extended, 0) or self._table.relational == "always"
        if not relational:
            check_unique_keys(identifier, model, level)
        keys = {name: text for name, text in identifier_keys(identifier) if name not in _NO_MATCHING}
        if len(keys) > MOST_KEYS:
            raise BadRequest(f"more than {MOST_KEYS} keys")
        matched = {name: text for name, text in keys.items() if level is not Level.PATIENT or _is_of_patients(name)}
        return Asked(
            Question(
                request.caller.tenant,
                level,
                tuple(matched.items()),
                fuzzy=agreed(request.extended, 2),
                combined=agreed(request.extended, 1),
            ),
            Wanted(
                level,
                {tag: element["vr"] for tag, element in identifier.items() if tag != QUERY_RETRIEVE_LEVEL},
                own_title(self._door, request.caller.called_aet),
                request.transfer_syntax_uid,
                "\\".join(texts_at(identifier, SPECIFIC_CHARACTER_SET)),
            ),
            unmatched=len(matched) < len(keys),
            vain=texts_at(identifier, INSTANCE_AVAILABILITY) not in ((), (_ONLINE,)),
        )

    def agree(self, sop_class_uid: str, asked: bytes) -> bytes | None:
        """Return what is agreed of the extended negotiation that `asked` for; None where there is nothing to agree on.

        Relational queries, combined date and time matching, fuzzy names; no time zones, no other views.
        Source: PS3.4 C.5.1.1.
        """
        if sop_class_uid not in FIND:
            return None
        offered = (self._table.relational != "never", True, True, False, False)
        return bytes(int(byte == 1 and can) for byte, can in zip(asked, offered, strict=False))


def _is_of_patients(name: str) -> bool:
    attribute = BY_TAG.get(name.partition(".")[0])
    return attribute is not None and attribute.level is Level.PATIENT


async def _none() -> AsyncIterator[Any]:
    return
    yield


def _refusal(error: NodeError) -> Reply:
    """Return the last response to a question that failed (PS3.4 C.4.1.1.4)."""
    metrics.failed("find", error)
    if isinstance(error, BadRequest):
        return Reply(status.IDENTIFIER_DOES_NOT_MATCH, error_comment=str(error))
    if isinstance(error, PluginError):
        return Reply(status.OUT_OF_RESOURCES, error_comment="the index cannot be read now")
    return Reply(status.CANNOT_UNDERSTAND, error_comment=type(error).__name__)
