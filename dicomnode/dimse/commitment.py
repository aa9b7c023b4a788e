"""Storage commitment as the one who asks: what was referenced, and the report that comes back (PS3.4 annex J)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from dicomnode.dicom.identifier import read_identifier
from dicomnode.dimse import status
from dicomnode.dimse.command import N_EVENT_REPORT_RQ
from dicomnode.dimse.responder import Operations, Replies, Reply, Request, StoreRequest
from dicomnode.dimse.service import STORAGE_COMMITMENT
from dicomnode.errors import BadRequest

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
_TRANSACTION_UID = "00081195"
_FAILED = "00081198"
_REFERENCED = "00081199"
_CLASS = "00081150"
_INSTANCE = "00081155"
_REASON = "00081197"


class Reference(msgspec.Struct, frozen=True):
    """An object by its SOP class and its own UID."""

    sop_class_uid: str
    sop_instance_uid: str


class Committed(msgspec.Struct, frozen=True):
    """What the peer is committed to keep, and what not, with its reasons (PS3.3 C.14.1.1)."""

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]


def action_information(transaction_uid: str, references: Iterable[Reference]) -> dict[str, dict[str, Any]]:
    """Return the data set of the N-ACTION that asks for commitment (PS3.4 table J.3-1)."""
    items = [
        {_CLASS: {"vr": "UI", "Value": [one.sop_class_uid]}, _INSTANCE: {"vr": "UI", "Value": [one.sop_instance_uid]}}
        for one in references
    ]
    return {_TRANSACTION_UID: {"vr": "UI", "Value": [transaction_uid]}, _REFERENCED: {"vr": "SQ", "Value": items}}


def read_report(attributes: Mapping[str, Mapping[str, Any]]) -> tuple[str, Committed]:
    """Return the transaction that a report is of, and what it says (PS3.4 table J.3-2). Raises: BadRequest."""
    transaction_uid = _text(attributes, _TRANSACTION_UID)
    if not transaction_uid:
        raise BadRequest("the report names no transaction")
    failed = tuple(
        (_reference(item), int(next(iter(item.get(_REASON, {}).get("Value", ())), 0)))
        for item in _items(attributes, _FAILED)
    )
    return transaction_uid, Committed(tuple(map(_reference, _items(attributes, _REFERENCED))), failed)


def _items(attributes: Mapping[str, Mapping[str, Any]], tag: str) -> list[dict[str, dict[str, Any]]]:
    return list(attributes.get(tag, {}).get("Value", ()))


def _reference(item: Mapping[str, Mapping[str, Any]]) -> Reference:
    return Reference(_text(item, _CLASS), _text(item, _INSTANCE))


def _text(attributes: Mapping[str, Mapping[str, Any]], tag: str) -> str:
    return str(next(iter(attributes.get(tag, {}).get("Value", ())), ""))


class Reports:
    """Takes reports, of transactions that are waited for; on whichever association they come."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Committed]] = {}

    def expect(self, transaction_uid: str) -> asyncio.Future[Committed]:
        """Return what will be the report of a transaction."""
        report: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._waiting[transaction_uid] = report
        return report

    @property
    def operations(self) -> Operations:
        """N-EVENT-REPORT."""
        return {(N_EVENT_REPORT_RQ, STORAGE_COMMITMENT): self._report}

    async def store(self, request: StoreRequest) -> int:
        """Refuse: nobody asked for objects."""
        return status.SOP_CLASS_NOT_SUPPORTED

    async def _report(self, request: Request) -> Replies:
        try:
            attributes = await asyncio.to_thread(read_identifier, request.data, request.transfer_syntax_uid, _MOST)
            transaction_uid, committed = read_report(attributes)
        except (BadRequest, ValueError):
            yield Reply(status.INVALID_ARGUMENT_VALUE)
            return
        report = self._waiting.get(transaction_uid)
        if report is None:
            yield Reply(status.NO_SUCH_ARGUMENT)
            return
        yield Reply(status.SUCCESS)
        if not report.done():
            report.set_result(committed)


_MOST = 64 * 1024 * 1024  # 400,000 references
