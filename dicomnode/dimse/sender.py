"""Many files to one peer: over as few associations as their presentation contexts need, or several side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dimse import status
from dicomnode.dimse.items import CONTEXTS_MOST
from dicomnode.dimse.outgoing import Opened, Outgoing, open_outgoing, read_outgoing
from dicomnode.dimse.scu import Association, proposals
from dicomnode.errors import BadInstance, NodeError, PeerError

_READ_AT_ONCE = 256


class Sent(msgspec.Struct, frozen=True):
    """What became of one file: the peer's status, or None and the problem that kept it from having one.

    `transient` tells that the same file may be taken later.
    """

    path: Path
    status: int | None
    problem: str = ""
    transient: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether the peer keeps the object."""
        return self.status is not None and status.is_stored(self.status)


OnResult = Callable[[Sent], None]


async def store_files(
    peer: PeerTable,
    calling_aet: str,
    paths: Sequence[Path],
    on_result: OnResult,
    *,
    associations: int = 1,
    limits: LimitsTable | None = None,
) -> None:
    """Send every file of `paths` once and tell `on_result` of each, in no set order; only bugs raise.

    A lost association is asked for again as long as it carries at least one object.
    """
    outgoing = await _read(paths, on_result)
    for group in _groups(outgoing):
        share = _Share(peer, calling_aet, deque(group), on_result, limits or LimitsTable())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(max(1, min(associations, len(group)))):
                tasks.create_task(share.work())


async def _read(paths: Sequence[Path], on_result: OnResult) -> list[Outgoing]:
    outgoing: list[Outgoing] = []
    for start in range(0, len(paths), _READ_AT_ONCE):
        batch = paths[start : start + _READ_AT_ONCE]
        for path, found in zip(batch, await asyncio.to_thread(_read_batch, batch), strict=True):
            if isinstance(found, Outgoing):
                outgoing.append(found)
            else:
                on_result(Sent(path, None, str(found)))
    return outgoing


def _read_batch(paths: Sequence[Path]) -> list[Outgoing | BadInstance]:
    found: list[Outgoing | BadInstance] = []
    for path in paths:
        try:
            found.append(read_outgoing(path))
        except BadInstance as error:
            found.append(error)
    return found


def _groups(outgoing: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield the files in groups that need no more contexts than one association may have."""
    by_context: dict[tuple[str, str], list[Outgoing]] = {}
    for one in outgoing:
        by_context.setdefault((one.sop_class_uid, one.transfer_syntax_uid), []).append(one)
    contexts = list(by_context.values())
    for start in range(0, len(contexts), CONTEXTS_MOST):
        yield [one for files in contexts[start : start + CONTEXTS_MOST] for one in files]


class _Share:
    """Files that several associations send between them."""

    def __init__(
        self, peer: PeerTable, calling_aet: str, files: deque[Outgoing], on_result: OnResult, limits: LimitsTable
    ) -> None:
        self._peer = peer
        self._calling_aet = calling_aet
        self._files = files
        self._on_result = on_result
        self._limits = limits
        self._workers = 0
        pairs = dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in files)
        self._asked = proposals([(sop_class, (syntax,)) for sop_class, syntax in pairs])

    async def work(self) -> None:
        """Send until no file is left, or until an association carries none."""
        self._workers += 1
        problem: PeerError | None = None
        while self._files and problem is None:
            sent = 0
            try:
                async with Association.request(self._peer, self._calling_aet, self._asked, self._limits) as association:
                    while self._files and not association.layer.over:
                        sent += await self._send_some(association)
            except PeerError as error:
                problem = error if not sent else None
        self._workers -= 1
        if problem is not None and not self._workers:
            self._give_up(problem)

    async def _send_some(self, association: Association) -> int:
        """Send files while the association holds; return how many the peer answered."""
        answered = 0
        ahead = self._open_next()
        while ahead is not None:
            outgoing, opening = ahead
            try:
                opened = await opening
            except BadInstance as error:
                self._on_result(Sent(outgoing.path, None, str(error)))
                ahead = self._open_next()
                continue
            if association.layer.over:
                self._files.appendleft(outgoing)
                await opened.close()
                break
            ahead = self._open_next()
            result = await _send(association, outgoing, opened)
            self._on_result(result)
            answered += result.status is not None
        return answered

    def _open_next(self) -> tuple[Outgoing, asyncio.Task[Opened]] | None:
        """Begin to read the next file while the one before is on its way."""
        if not self._files:
            return None
        outgoing = self._files.popleft()
        return outgoing, asyncio.create_task(open_outgoing(outgoing))

    def _give_up(self, problem: PeerError) -> None:
        while self._files:
            self._on_result(Sent(self._files.popleft().path, None, str(problem), problem.transient))


async def _send(association: Association, outgoing: Outgoing, opened: Opened) -> Sent:
    try:
        told = await association.store(
            outgoing.sop_class_uid,
            outgoing.sop_instance_uid,
            outgoing.transfer_syntax_uid,
            opened.first,
            opened.rest,
        )
    except NodeError as error:
        transient = isinstance(error, PeerError) and error.transient
        return Sent(outgoing.path, None, str(error), transient)
    finally:
        await opened.close()
    problem = "" if status.is_stored(told) else f"the peer answered {told:#06x}"
    return Sent(outgoing.path, told, problem, status.is_transient(told))
