"""The reports that are owed for storage commitment: kept until a peer has confirmed them (PS3.4 J.3.3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from dicomnode import log, metrics
from dicomnode.config import CommitmentTable, PeerTable
from dicomnode.dicom.identifier import write_identifier
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dimse import status
from dicomnode.dimse.command import N_EVENT_REPORT_RQ, Command
from dicomnode.dimse.items import Proposal, Role
from dicomnode.dimse.requester import Requester
from dicomnode.dimse.retry import Retry
from dicomnode.dimse.scu import Association
from dicomnode.documents import Documents, file_of
from dicomnode.errors import Full, NodeError, PeerError, PluginError
from dicomnode.model.commitment import Outcome, Reason, Reference, Transaction
from dicomnode.services.commitment import MOST_REFERENCES, Commitment

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

_LOG = log.get("commitment")
_ALL_COMMITTED, _SOME_FAILED = 1, 2  # event types
_LONGEST_PAUSE_S = 1800.0
_LONGEST_DOUBT_S = 3600.0
_AT_ONCE = 4
_MOST_OBJECTS = 5 * MOST_REFERENCES  # in all requests together, as they are held in memory
_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


class Line(msgspec.Struct, frozen=True):
    """A presentation context of an association that stands, on which a peer may be told something."""

    partner: Requester
    context_id: int
    transfer_syntax_uid: str


class Reports:
    """Work out what each transaction is to be told, and tell it: where it was asked, or on an association of our own.

    A peer may have gone home for the night: it is tried again with growing pauses. What is owed stands in `documents`
    and is taken up again after a restart.
    """

    def __init__(
        self, table: CommitmentTable, peers: Mapping[str, PeerTable], commitment: Commitment, documents: Documents
    ) -> None:
        self._table = table
        self._peers = {peer.ae_title: peer for peer in peers.values()}
        self._commitment = commitment
        self._documents = documents
        self._retry = Retry(first_s=table.retry_s, most_s=_LONGEST_PAUSE_S)
        self._slots, self._calls = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_AT_ONCE)
        self._owed: dict[tuple[str, str, str], Transaction] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def begin(self) -> None:
        """Take up what was owed when the node stopped. Raises: Unavailable."""
        for transaction in await asyncio.to_thread(self._read):
            self._owed[transaction.identity] = transaction
            self.start(transaction, None)

    async def close(self) -> None:
        """Stop reporting; what is owed stays so."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def owe(self, transaction: Transaction) -> None:
        """Keep a transaction, so that it survives a crash; it takes the place of one that was asked for earlier.

        Raises: Full, Unavailable.
        """
        objects = sum(len(owed.references) for owed in self._owed.values()) + len(transaction.references)
        if objects > _MOST_OBJECTS or (
            transaction.identity not in self._owed and len(self._owed) >= self._table.pending
        ):
            raise Full("commitment", "too many reports are owed already")
        await asyncio.to_thread(self._write, transaction)
        earlier = self._owed.get(transaction.identity)
        self._owed[transaction.identity] = transaction
        if earlier is not None:
            task = self._tasks.get(earlier.name)
            if task is not None:
                task.cancel()
            await self._forget(earlier)

    def start(self, transaction: Transaction, line: Line | None) -> None:
        """Begin to report on a transaction that is owed, over `line` if its association stands long enough."""
        if self._closed:
            return
        task = asyncio.create_task(self._report(transaction, line), name="commitment report")
        self._tasks[transaction.name] = task
        task.add_done_callback(lambda done: self._ended(transaction.name, done))

    # Its own.

    def _read(self) -> list[Transaction]:
        found = []
        for tenant in self._documents.tenants():
            for listed in reversed(self._documents.listed(tenant)):
                body = self._documents.read(tenant, listed.file)
                try:
                    found.append(msgspec.json.decode(body or b"", type=Transaction))
                except msgspec.DecodeError:
                    _LOG.warning("commitment.unreadable", file=listed.file)
        return found

    def _write(self, transaction: Transaction) -> None:
        self._documents.write(transaction.tenant, file_of(transaction.name), msgspec.json.encode(transaction))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("commitment.failed", exc_info=error)

    async def _report(self, transaction: Transaction, line: Line | None) -> None:
        outcome = await self._outcome(transaction)
        if line is not None:
            try:
                await self._tell_where_asked(transaction, outcome, line)
            except PeerError as problem:
                _LOG.debug("commitment.hung_up", reason=str(problem))
            else:
                await self._done(transaction, "partly" if outcome.failed else "committed")
                return
        peer = self._peers.get(transaction.calling_aet)
        if peer is None:
            await self._give_up(transaction, "the peer is gone, and not among [peers], so it cannot be called")
            return
        failures = 0
        while True:
            try:
                await self._call(transaction, outcome, peer)
            except NodeError as problem:
                failures += 1
                if time.time() > transaction.received + self._table.give_up_s:
                    await self._give_up(transaction, str(problem))
                    return
                _LOG.info("commitment.delayed", reason=str(problem), tries=failures)
                await asyncio.sleep(self._retry.pause_s(failures))
                outcome = await self._outcome(transaction)  # what is kept may be another matter by now
            else:
                await self._done(transaction, "partly" if outcome.failed else "committed")
                return

    async def _outcome(self, transaction: Transaction) -> Outcome:
        """Return what to tell; that it cannot be told now, when that has lasted for an hour."""
        failures = 0
        try:
            async with asyncio.timeout(_LONGEST_DOUBT_S):
                while True:
                    try:
                        async with self._slots:
                            return await self._commitment.check(transaction.tenant, transaction.references)
                    except PluginError as problem:
                        failures += 1
                        _LOG.warning("commitment.delayed", reason=str(problem), tries=failures)
                        await asyncio.sleep(self._retry.pause_s(failures))
        except TimeoutError:
            return Outcome((), tuple((one, Reason.RESOURCE_LIMITATION) for one in transaction.references))

    async def _tell_where_asked(self, transaction: Transaction, outcome: Outcome, line: Line) -> None:
        """Tell the peer on the association on which it asked, if it does not part soon. Raises: PeerError."""
        if not await line.partner.lasts(self._table.hold_s):
            raise PeerError("the association is over")
        await self._tell(transaction, outcome, line)

    async def _call(self, transaction: Transaction, outcome: Outcome, peer: PeerTable) -> None:
        """Tell the peer on an association of our own, on which we are the SCP (PS3.4 J.3.3). Raises: PeerError."""
        proposal = Proposal(1, STORAGE_COMMITMENT, _SYNTAXES, Role(scu=False, scp=True))
        async with self._calls, Association.request(peer, transaction.called_aet, (proposal,)) as association:
            # A peer that accepts the context but says nothing of roles is told all the same.
            context = next(iter(association.settled.contexts.values()), None)
            if context is None:
                raise PeerError("the peer does not accept storage commitment from us")
            await self._tell(
                transaction, outcome, Line(association.requester, context.context_id, context.transfer_syntax)
            )

    async def _tell(self, transaction: Transaction, outcome: Outcome, line: Line) -> None:
        data = await asyncio.to_thread(event_information, transaction, outcome, line.transfer_syntax_uid)
        command = Command(
            N_EVENT_REPORT_RQ,
            affected_sop_class_uid=STORAGE_COMMITMENT,
            affected_sop_instance_uid=WELL_KNOWN_INSTANCE,
            event_type_id=_SOME_FAILED if outcome.failed else _ALL_COMMITTED,
        )
        try:
            async with asyncio.timeout(self._table.answer_s):
                response = await line.partner.ask(line.context_id, command, data)
        except TimeoutError:
            raise PeerError("the peer did not confirm the report in time", transient=True) from None
        if not status.is_stored(response.status):
            raise PeerError(f"the peer answered {response.status:#06x} to the report", transient=True)

    async def _give_up(self, transaction: Transaction, reason: str) -> None:
        _LOG.warning("commitment.unreported", reason=reason, peer=transaction.calling_aet)
        await self._done(transaction, "unreported")

    async def _done(self, transaction: Transaction, outcome: str) -> None:
        metrics.COMMITMENTS.labels(outcome).inc()
        _LOG.info("commitment.ended", outcome=outcome, objects=len(transaction.references))
        if self._owed.get(transaction.identity) is transaction:
            del self._owed[transaction.identity]
        await self._forget(transaction)

    async def _forget(self, transaction: Transaction) -> None:
        try:
            await asyncio.to_thread(self._documents.delete, transaction.tenant, file_of(transaction.name))
        except PluginError as problem:
            _LOG.warning("commitment.kept", reason=str(problem))  # it will be reported once more after a restart


def event_information(transaction: Transaction, outcome: Outcome, transfer_syntax_uid: str) -> bytes:
    """Return the data set of a report (PS3.4 table J.3-2)."""
    attributes: dict[str, Any] = {
        "00080054": {"vr": "AE", "Value": [transaction.called_aet]},
        "00081195": {"vr": "UI", "Value": [transaction.uid]},
    }
    if outcome.failed:
        items = [{**_item(one), "00081197": {"vr": "US", "Value": [int(reason)]}} for one, reason in outcome.failed]
        attributes["00081198"] = {"vr": "SQ", "Value": items}
    if outcome.committed:
        attributes["00081199"] = {"vr": "SQ", "Value": [_item(one) for one in outcome.committed]}
    return write_identifier(attributes, transfer_syntax_uid)


def _item(reference: Reference) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [reference.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [reference.sop_instance_uid]},
    }
