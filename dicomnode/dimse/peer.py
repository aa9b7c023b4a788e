"""Another DICOM node, as something to talk to: the services that we use of it, each a method.

async with connect("PACS@192.0.2.7:104", "ME") as peer:
    async for study in peer.find({"PatientName": "DOE*", "StudyInstanceUID": None}):
        ...
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, Literal, TypeVar

import msgspec

from dicomnode.config import LimitsTable, PeerTable, StoreScpTable, parse_peer
from dicomnode.dicom.identifier import read_identifier, write_identifier
from dicomnode.dicom.keys import attributes_of
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dimse import service, status
from dicomnode.dimse.command import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ, N_ACTION_RQ, Command
from dicomnode.dimse.commitment import WELL_KNOWN_INSTANCE, Committed, Reference, Reports, action_information
from dicomnode.dimse.items import Associate
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.outgoing import Sendable
from dicomnode.dimse.requester import Conversation, Requester, Response
from dicomnode.dimse.responder import Caller
from dicomnode.dimse.retrieve import Keep, Receiving, get_proposals
from dicomnode.dimse.scp import Visitor
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.sender import Counts, OnResult, Sending, send
from dicomnode.dimse.service import MODALITY_WORKLIST, STORAGE_COMMITMENT, VERIFICATION
from dicomnode.errors import NodeError, PeerError

Level = Literal["PATIENT", "STUDY", "SERIES", "IMAGE"]
Root = Literal["patient", "study"]
Keys = Mapping[str, Any]
"""Attributes by keyword, tag or path through sequences; see `dicom.keys.attributes_of`."""

_FIND: Final = {"patient": "1.2.840.10008.5.1.4.1.2.1.1", "study": "1.2.840.10008.5.1.4.1.2.2.1"}
_MOVE: Final = {"patient": "1.2.840.10008.5.1.4.1.2.1.2", "study": "1.2.840.10008.5.1.4.1.2.2.2"}
_GET: Final = {"patient": "1.2.840.10008.5.1.4.1.2.1.3", "study": "1.2.840.10008.5.1.4.1.2.2.3"}
SOP_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    service.ECHO: (VERIFICATION,),
    service.FIND: tuple(_FIND.values()),
    service.MOVE: tuple(_MOVE.values()),
    service.GET: tuple(_GET.values()),
    service.COMMIT: (STORAGE_COMMITMENT,),
    service.WORKLIST: (MODALITY_WORKLIST,),
}
"""What each service is asked for by; storage goes by the SOP classes of the objects."""
_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_LEVEL = "00080052"
_STUDY_UID = "0020000D"
_CLASSES_IN_STUDY = "00080062"
_FAILED_UIDS = "00080058"
_LAST_WORD_S = 10.0  # for the last response, once we have asked the peer to stop
_COMMIT_AT_ONCE = 10_000

S = TypeVar("S", bound=Sendable)


class Progress(msgspec.Struct, frozen=True):
    """How far a C-MOVE or C-GET is. The last has a `status` that is not pending, and the UIDs of what failed."""

    status: int
    remaining: int = 0
    completed: int = 0
    warning: int = 0
    failed: int = 0
    failed_uids: tuple[str, ...] = ()
    error_comment: str = ""

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return not status.is_pending(self.status)


@asynccontextmanager
async def connect(
    peer: str | PeerTable, calling_aet: str = "DICOMNODE", limits: LimitsTable | None = None
) -> AsyncIterator[Peer]:
    """Hold an association with `peer`, `AET@host:port` or its table, for the time of the context.

    Raises: PeerError, `transient` where the same may succeed later; ValueError, when `peer` names none.
    """
    table = parse_peer(peer) if isinstance(peer, str) else peer
    limits = limits or LimitsTable()
    reports = Reports()
    services = (VERIFICATION, *_FIND.values(), *_MOVE.values(), MODALITY_WORKLIST, STORAGE_COMMITMENT)
    asked = proposals([(service, _SYNTAXES) for service in services])
    async with Association.request(table, calling_aet, asked, limits, reports) as association:
        yield Peer(table, calling_aet, association, reports, limits)


class Peer:
    """A node with which an association stands; made by `connect`."""

    def __init__(
        self, table: PeerTable, calling_aet: str, association: Association, reports: Reports, limits: LimitsTable
    ) -> None:
        self.table = table
        self._calling_aet = calling_aet
        self._association = association
        self._reports = reports
        self._limits = limits

    async def echo(self) -> float:
        """Return how long the peer took to answer C-ECHO, in seconds. Raises: PeerError."""
        started = time.perf_counter()
        told = await self._association.echo()
        if told != status.SUCCESS:
            raise PeerError(f"the peer answered {told:#06x}")
        return time.perf_counter() - started

    async def find(
        self, keys: Keys, level: Level = "STUDY", *, root: Root = "study", limit: int = 0
    ) -> AsyncGenerator[dict[str, dict[str, Any]], None]:
        """Yield the matches as DICOM JSON objects, texts in Unicode (C-FIND, PS3.4 C.4.1).

        After `limit` of them, or when the caller wants no more, the peer is asked to stop (C-CANCEL).

        Raises: PeerError; BadRequest, for keys that are none.
        """
        async with aclosing(self._find(_FIND[root], _keys(keys, level), limit)) as found:
            async for one in found:
                yield one

    async def worklist(self, keys: Keys, *, limit: int = 0) -> AsyncGenerator[dict[str, dict[str, Any]], None]:
        """Yield the scheduled procedure steps that match (Modality Worklist, PS3.4 K). Otherwise as `find`."""
        async with aclosing(self._find(MODALITY_WORKLIST, attributes_of(keys), limit)) as found:
            async for one in found:
                yield one

    async def move(
        self, keys: Keys, destination: str, level: Level = "STUDY", *, root: Root = "study"
    ) -> AsyncGenerator[Progress, None]:
        """Have the peer send objects to the AE title `destination`, and yield how far it is (C-MOVE, PS3.4 C.4.2).

        When the caller wants no more, the peer is asked to stop. Raises: PeerError, BadRequest.
        """
        command = Command(C_MOVE_RQ, affected_sop_class_uid=_MOVE[root], move_destination=destination)
        async with aclosing(_retrieve(self._association.requester, command, _keys(keys, level))) as going:
            async for progress in going:
                yield progress

    async def get(
        self, keys: Keys, keep: Keep, level: Level = "STUDY", *, root: Root = "study", sop_classes: Sequence[str] = ()
    ) -> AsyncGenerator[Progress, None]:
        """Have the peer send objects to us, on another association, and yield how far it is (C-GET, PS3.4 C.4.3).

        Each is given to `keep`, which returns a status. `sop_classes` are the kinds of objects that may come; where it
        is (), the peer is asked, and if it does not say all current ones may. Raises: PeerError, BadRequest.
        """
        attributes = _keys(keys, level)
        asked = get_proposals(_GET[root], sop_classes or await self._classes_in(attributes, root))
        async with Association.request(
            self.table, self._calling_aet, asked, self._limits, Receiving(keep)
        ) as association:
            command = Command(C_GET_RQ, affected_sop_class_uid=_GET[root])
            async with aclosing(_retrieve(association.requester, command, attributes)) as going:
                async for progress in going:
                    yield progress

    async def store(
        self, sendables: Sequence[S] | AsyncIterator[S], on_result: OnResult[S], sending: Sending | None = None
    ) -> Counts:
        """Send objects, over associations of their own: see `sender.send`."""
        return await send(self.table, self._calling_aet, sendables, on_result, sending)

    async def commit(
        self, references: Sequence[Reference], wait_s: float = 60.0, listen: tuple[str, int] | None = None
    ) -> Committed:
        """Ask the peer to be committed to keep objects; return its report (storage commitment, PS3.4 J).

        The report comes on this association, or on one that the peer asks for at address `listen`, where we then wait;
        the peer must know that address as that of our AE title.

        Raises: PeerError, transient when no report came within `wait_s` seconds.
        """
        async with _listening(self._calling_aet, listen, self._reports, self._limits):
            committed: list[Reference] = []
            failed: list[tuple[Reference, int]] = []
            for start in range(0, len(references), _COMMIT_AT_ONCE):
                batch = references[start : start + _COMMIT_AT_ONCE]
                report = await self._commit(batch, wait_s, elsewhere=listen is not None)
                committed += report.committed
                failed += report.failed
        return Committed(tuple(committed), tuple(failed))

    # Its own.

    async def _find(
        self, sop_class_uid: str, attributes: Keys, limit: int
    ) -> AsyncGenerator[dict[str, dict[str, Any]], None]:
        requester = self._association.requester
        context = requester.context(sop_class_uid)
        command = Command(C_FIND_RQ, affected_sop_class_uid=sop_class_uid)
        count = 0
        async with _asked(requester, command, attributes) as responses:
            async for response in responses:
                if not status.is_pending(response.status):
                    _check(response)
                    return
                yield read_identifier(response.data, context.transfer_syntax)
                count += 1
                if count == limit:
                    return

    async def _classes_in(self, attributes: Keys, root: Root) -> tuple[str, ...]:
        """Return the SOP classes of the studies that are asked for, () where the peer does not say."""
        if _STUDY_UID not in attributes:
            return ()
        asked = {tag: attributes[tag] for tag in (_STUDY_UID, "00100020") if tag in attributes and root == "patient"}
        asked |= {_STUDY_UID: attributes[_STUDY_UID], _CLASSES_IN_STUDY: {"vr": "UI"}}
        asked[_LEVEL] = {"vr": "CS", "Value": ["STUDY"]}
        found: set[str] = set()
        with suppress(NodeError):
            async with aclosing(self._find(_FIND[root], asked, 0)) as studies:
                async for study in studies:
                    classes = study.get(_CLASSES_IN_STUDY, {}).get("Value", ())
                    if not classes:
                        return ()
                    found.update(map(str, classes))
        return tuple(sorted(found))

    async def _commit(self, references: Sequence[Reference], wait_s: float, *, elsewhere: bool) -> Committed:
        requester = self._association.requester
        context = requester.context(STORAGE_COMMITMENT)
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        report = self._reports.expect(transaction_uid)
        command = Command(
            N_ACTION_RQ,
            requested_sop_class_uid=STORAGE_COMMITMENT,
            requested_sop_instance_uid=WELL_KNOWN_INSTANCE,
            action_type_id=1,
        )
        data = write_identifier(action_information(transaction_uid, references), context.transfer_syntax)
        _check(await requester.ask(context.context_id, command, data))
        over = asyncio.ensure_future(requester.lasts(wait_s))
        try:
            waited: set[asyncio.Future[Any]] = {report} if elsewhere else {report, over}
            await asyncio.wait(waited, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        if report.done():
            return report.result()
        if not elsewhere and requester.over:
            raise PeerError("the association was over before the report came", transient=True)
        raise PeerError(f"no report came within {wait_s:g} s", transient=True)


def _keys(keys: Keys, level: Level) -> dict[str, dict[str, Any]]:
    return attributes_of(keys) | {_LEVEL: {"vr": "CS", "Value": [level]}}


async def _retrieve(requester: Requester, command: Command, attributes: Keys) -> AsyncGenerator[Progress, None]:
    context = requester.context(command.affected_sop_class_uid)
    async with _asked(requester, command, attributes) as responses:
        async for response in responses:
            failed: tuple[str, ...] = ()
            if response.data:
                told = read_identifier(response.data, context.transfer_syntax)
                failed = tuple(map(str, told.get(_FAILED_UIDS, {}).get("Value", ())))
            command_set = response.command
            yield Progress(
                response.status,
                command_set.remaining or 0,
                command_set.completed or 0,
                command_set.warning or 0,
                command_set.failed or 0,
                failed,
                command_set.error_comment,
            )


@asynccontextmanager
async def _asked(requester: Requester, command: Command, attributes: Keys) -> AsyncIterator[Conversation]:
    """Hold a conversation; at the end of the context, ask the peer to stop if it has not, and hear it out."""
    context = requester.context(command.affected_sop_class_uid)
    conversation = requester.converse(
        context.context_id, command, write_identifier(attributes, context.transfer_syntax)
    )
    try:
        yield conversation
    finally:
        if not conversation.over:
            with suppress(PeerError, TimeoutError):
                conversation.cancel()
                async with asyncio.timeout(_LAST_WORD_S):
                    async for _ in conversation:
                        pass


def _check(response: Response) -> None:
    """Raise PeerError, unless the response is a success, a warning or the end that we asked for."""
    told = response.status
    if told != status.CANCELLED and not status.is_stored(told):
        comment = f": {response.command.error_comment}" if response.command.error_comment else ""
        raise PeerError(f"the peer answered {told:#06x}{comment}", transient=status.is_transient(told))


@asynccontextmanager
async def _listening(
    ae_title: str, address: tuple[str, int] | None, reports: Reports, limits: LimitsTable
) -> AsyncIterator[None]:
    """Take reports at `address`, from whoever knows the transaction, for the time of the context."""
    if address is None:
        yield
        return

    def admit(request: Associate, visitor: Visitor) -> Caller:
        return Caller(request.calling_aet, request.called_aet, visitor.peer_ip)

    host, port = address
    listener = Listener(StoreScpTable(host=host, port=port, ae_title=ae_title, limits=limits), admit, reports)
    await listener.open()
    try:
        yield
    finally:
        await listener.drain()
