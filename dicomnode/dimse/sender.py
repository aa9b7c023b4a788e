"""Many objects to one peer: over as few associations as their presentation contexts need, or several side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dimse import status
from dicomnode.dimse.associate import Asking
from dicomnode.dimse.backlog import Backlog, Plan, Source, Waiting
from dicomnode.dimse.command import Originator
from dicomnode.dimse.outgoing import Opened, Outgoing, Sendable, Transcoder, outgoing_files
from dicomnode.dimse.requester import NotAccepted
from dicomnode.dimse.retry import Retry
from dicomnode.dimse.scu import Association
from dicomnode.errors import BadInstance, NodeError, PeerError, Unavailable

S = TypeVar("S", bound=Sendable)


class Sent(msgspec.Struct, Generic[S], frozen=True):
    """What became of one object: the peer's status, or None and the problem that kept it from having one.

    `transient` tells that the same object may be taken later; `transfer_syntax_uid` in which one it went, "" for none.
    """

    sendable: S
    status: int | None
    problem: str = ""
    transient: bool = False
    transfer_syntax_uid: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the peer keeps the object, or has it already."""
        return self.status is not None and status.is_stored(self.status)

    @property
    def is_warning(self) -> bool:
        """Whether the peer keeps the object and has something to say about it."""
        return self.status is not None and status.is_warning(self.status)


OnResult = Callable[[Sent[S]], None]


class Sending(msgspec.Struct, frozen=True):
    """How to send: over how many associations, how patiently, transcoded by whom, and asked for by which C-MOVE.

    Without a transcoder an object is sent as it is or not at all. `window` is how many objects may be under way on an
    association, if the peer agrees (PS3.7 D.3.3.3). Ask for more than one only of peers that can do it: dcmjs-dimse
    agrees to whatever it is asked for, and loses objects that come while it writes another.
    """

    associations: int = 1
    retry: Retry = Retry()
    transcoder: Transcoder | None = None
    originator: Originator | None = None
    limits: LimitsTable = LimitsTable()
    window: int = 1


class Counts(msgspec.Struct):
    """How many objects the peer keeps, how many of these with a warning, and how many it does not keep."""

    stored: int = 0
    warnings: int = 0
    failed: int = 0


async def send(
    peer: PeerTable,
    calling_aet: str,
    sendables: Source[S],
    on_result: OnResult[S],
    sending: Sending | None = None,
) -> Counts:
    """Send every object once and tell `on_result` what became of each, in no set order; only bugs raise.

    The source is read at most a thousand objects ahead. What fails and may succeed later (out of resources,
    congestion, a lost association, nobody there) is tried again after a pause; what never will is not.
    """
    return await _Courier(peer, calling_aet, sendables, on_result, sending or Sending()).run()


async def store_files(
    peer: PeerTable,
    calling_aet: str,
    paths: Iterable[Path],
    on_result: OnResult[Outgoing],
    sending: Sending | None = None,
) -> Counts:
    """Send every file of `paths`, as `send` does; one that cannot be read as an object is told like one that failed."""
    unfit = 0

    def told(path: Path, problem: BadInstance) -> None:
        nonlocal unfit
        unfit += 1
        on_result(Sent(Outgoing(path, "", "", "", 0), None, str(problem)))

    counts = await send(peer, calling_aet, outgoing_files(paths, told), on_result, sending)
    counts.failed += unfit
    return counts


class _Round:
    """What happened on one association: whether it stood, how many objects the peer took, and what ended it early."""

    def __init__(self) -> None:
        self.stood = self.over = False
        self.stored = 0
        self.trouble: PeerError | None = None
        self._last = asyncio.Event()
        self._last.set()

    def turn(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Return what the next object waits for, that the one before has begun, and what it sets when itself begins."""
        before, self._last = self._last, asyncio.Event()
        return before, self._last

    def end(self, trouble: PeerError | None) -> None:
        """Send nothing more on it, because of the peer's `trouble` or, None, a fault of ours."""
        self.over = True
        self.trouble = self.trouble or trouble


class _Courier(Generic[S]):
    """The associations that send one backlog between them."""

    def __init__(
        self, peer: PeerTable, calling_aet: str, sendables: Source[S], on_result: OnResult[S], sending: Sending
    ) -> None:
        self._peer = peer
        self._calling_aet = calling_aet
        self._on_result = on_result
        self._how = sending
        self._targets = sending.transcoder.targets if sending.transcoder else ()
        self._backlog = Backlog(sendables, self._targets)
        self._workers = 0
        self._hopeless: PeerError | None = None
        self._counts = Counts()

    async def run(self) -> Counts:
        """Send everything."""
        self._workers = max(1, self._how.associations)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._backlog.feed())
            for _ in range(self._workers):
                tasks.create_task(self._work())
        return self._counts

    async def _work(self) -> None:
        """Hold one association after the other until nothing is left, or nothing can be hoped for."""
        failures = 0
        while (plan := await self._backlog.plan()) is not None and self._hopeless is None:
            went = await self._round(plan)
            failures = 0 if went.stored or went.trouble is None else failures + 1
            if went.trouble is None:
                continue
            refused = not went.stood and not went.trouble.transient
            if refused or failures >= self._how.retry.attempts:
                if self._workers == 1:  # else the others may do better: a peer with one slot serves one of us
                    self._hopeless = went.trouble
                break
            await self._backlog.pause(self._how.retry.pause_s(max(failures, 1)))
        self._workers -= 1
        if self._hopeless is not None:
            await self._give_up(self._hopeless)

    async def _round(self, plan: Plan) -> _Round:
        """Hold one association, for as long as there is something that may go over it."""
        went = _Round()
        peer, how = self._peer, self._how
        try:
            async with Association.request(
                peer, self._calling_aet, plan.proposals, how.limits, asking=Asking(window=how.window)
            ) as association:
                went.stood = True
                window = association.settled.window
                slots = asyncio.Semaphore(window)
                async with asyncio.TaskGroup() as lanes:
                    # One more than may be under way: it reads or transcodes the next object meanwhile.
                    for _ in range(window + 1):
                        lanes.create_task(self._lane(association, plan, slots, went))
        except PeerError as error:
            went.end(error)
        return went

    async def _lane(self, association: Association, plan: Plan, slots: asyncio.Semaphore, went: _Round) -> None:
        while not went.over and (one := await self._backlog.take(plan)) is not None:
            before, begun = went.turn()
            try:
                opened, syntax = await self._open(association, one.sendable)
            except NodeError as error:
                begun.set()
                self._tell(Sent(one.sendable, None, str(error), _is_transient(error)))
                continue
            try:
                await before.wait()
                async with slots:
                    begun.set()
                    await self._send(association, one, opened, syntax, went)
            finally:
                await opened.close()

    async def _open(self, association: Association, sendable: S) -> tuple[Opened, str]:
        """Return the object's data set as the peer takes it. Raises: NodeError."""
        if association.accepts(sendable.sop_class_uid, sendable.transfer_syntax_uid):
            return await sendable.open(), sendable.transfer_syntax_uid
        taken = association.requester.syntaxes(sendable.sop_class_uid)
        target = next((uid for uid in self._targets if uid in taken), "")
        if self._how.transcoder is None or not target:
            raise NotAccepted(f"the peer does not accept {sendable.sop_class_uid} in {sendable.transfer_syntax_uid}")
        return await self._how.transcoder.transcode(sendable, target), target

    async def _send(self, association: Association, one: Waiting[S], opened: Opened, syntax: str, went: _Round) -> None:
        sendable = one.sendable
        if went.over:
            self._backlog.again(one, last=False)
            return
        try:
            told = await association.requester.store(
                sendable.sop_class_uid, sendable.sop_instance_uid, syntax, opened.first, opened.rest,
                originator=self._how.originator,
            )  # fmt: skip
        except PeerError as error:
            went.end(error)
            self._failed(one, Sent(sendable, None, str(error), error.transient))
        except NodeError as error:
            # The peer waits for the rest of an object that cannot be read to its end.
            went.end(None)
            association.layer.abort(PeerError("this end aborted the association", transient=True))
            self._tell(Sent(sendable, None, str(error), _is_transient(error)))
        else:
            self._answered(one, told, syntax, went)

    def _answered(self, one: Waiting[S], told: int, syntax: str, went: _Round) -> None:
        problem = "" if status.is_stored(told) else f"the peer answered {told:#06x}"
        sent = Sent(one.sendable, told, problem, status.is_transient(told), syntax)
        went.stored += sent.is_stored
        if self._failed(one, sent):
            went.end(PeerError(problem, transient=True))

    def _failed(self, one: Waiting[S], sent: Sent[S]) -> bool:
        """Tell what became of it, or put it after all others, where one that no peer can digest is in nobody's way."""
        one.failures += 1
        again = sent.transient and one.failures < self._how.retry.attempts
        if again:
            self._backlog.again(one, last=True)
        else:
            self._tell(sent)
        return again

    def _tell(self, sent: Sent[S]) -> None:
        self._counts.stored += sent.is_stored
        self._counts.warnings += sent.is_warning
        self._counts.failed += not sent.is_stored
        self._on_result(sent)
        self._backlog.done()

    async def _give_up(self, problem: PeerError) -> None:
        while (plan := await self._backlog.plan()) is not None:
            while (one := await self._backlog.take(plan)) is not None:
                self._tell(Sent(one.sendable, None, str(problem), problem.transient))


def _is_transient(error: NodeError) -> bool:
    return isinstance(error, Unavailable) or (isinstance(error, PeerError) and error.transient)
