"""What is still to be sent: read from its source as there is room, handed out by presentation context."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from dicomnode.dimse.items import CONTEXTS_MOST, Proposal
from dicomnode.dimse.outgoing import Sendable

_ROOM = 1000  # objects known and not yet sent
_GATHER_S = 0.2  # how long a slow source is waited for before an association is asked for
_LINGER_S = 5.0  # how long an association is held for a source that has nothing at the moment

S = TypeVar("S", bound=Sendable)
Source = Iterable[S] | AsyncIterable[S]


class Waiting(msgspec.Struct, Generic[S]):
    """An object that is still to be sent, and how often that failed."""

    sendable: S
    failures: int = 0

    @property
    def context(self) -> tuple[str, str]:
        """The SOP class and the transfer syntax of the presentation context that it needs as it is."""
        return self.sendable.sop_class_uid, self.sendable.transfer_syntax_uid


class Plan(msgspec.Struct, frozen=True):
    """What an association is asked for, and which objects may go over it."""

    contexts: frozenset[tuple[str, str]]
    proposals: tuple[Proposal, ...]


class Backlog(Generic[S]):
    """Objects from `source`, each handed out until it is `done`. `feed` must run beside whoever takes."""

    def __init__(self, source: Source[S], fallbacks: Sequence[str]) -> None:
        self._source = source
        self._fallbacks = fallbacks
        self._waiting: dict[tuple[str, str], deque[tuple[int, Waiting[S]]]] = {}
        self._count = self._number = self._out = 0
        self._exhausted = False
        self._changed = asyncio.Event()

    async def feed(self) -> None:
        """Read the source to its end, never more than a thousand objects ahead."""
        if isinstance(self._source, AsyncIterable):
            async for sendable in self._source:
                await self._add(sendable)
        else:
            for sendable in self._source:
                await self._add(sendable)
        self._exhausted = True
        self._changed.set()

    async def plan(self) -> Plan | None:
        """Return what the next association should ask for; None when everything is done."""
        gathered = False
        while not (self._count and (gathered or self._exhausted or self._count >= _ROOM)):
            if self._count:
                await self._change_within(_GATHER_S, lambda: self._exhausted or self._count >= _ROOM)
                gathered = True
            elif self._exhausted and not self._out:
                return None
            else:
                await self._change()
        return self._plan()

    async def take(self, plan: Plan) -> Waiting[S] | None:
        """Return the next object that may go over an association of this plan; None when there is none for now."""
        if not self._count and not self._exhausted:
            await self._change_within(_LINGER_S, lambda: bool(self._count) or self._exhausted)
        fitting = [context for context in plan.contexts if self._waiting.get(context)]
        if not fitting:
            return None
        first = min(fitting, key=lambda context: self._waiting[context][0][0])
        _, one = self._waiting[first].popleft()
        if not self._waiting[first]:
            del self._waiting[first]
        self._count -= 1
        self._out += 1
        self._changed.set()
        return one

    def done(self) -> None:
        """Learn that an object taken is not to come again."""
        self._out -= 1
        self._changed.set()

    def again(self, one: Waiting[S], *, last: bool) -> None:
        """Take back an object; as the `last`, or as the next."""
        self._out -= 1
        self._append(one, at_end=last)

    async def pause(self, seconds: float) -> None:
        """Wait, or until nothing is left to be done."""
        await self._change_within(seconds, lambda: self._exhausted and not self._out and not self._count)

    # Its own.

    async def _add(self, sendable: S) -> None:
        while self._count >= _ROOM:
            await self._change()
        self._append(Waiting(sendable), at_end=True)

    def _append(self, one: Waiting[S], *, at_end: bool) -> None:
        queue = self._waiting.setdefault(one.context, deque())
        self._number += 1
        if at_end:
            queue.append((self._number, one))
        else:
            queue.appendleft((-self._number, one))
        self._count += 1
        self._changed.set()

    def _plan(self) -> Plan:
        """Ask for the contexts of what waits, the oldest first, as many as one association may have."""
        wanted: dict[tuple[str, str], tuple[str, ...]] = {}
        contexts: set[tuple[str, str]] = set()
        for context in sorted(self._waiting, key=lambda context: self._waiting[context][0][0]):
            sop_class, syntax = context
            more: dict[tuple[str, str], tuple[str, ...]] = {context: (syntax,)}
            others = tuple(uid for uid in self._fallbacks if uid != syntax)
            if others and (sop_class, "") not in wanted:
                more[sop_class, ""] = others
            if len(wanted) + len(more) > CONTEXTS_MOST:
                break
            wanted |= more
            contexts.add(context)
        # Their order means nothing; but GDCM reads all that it gets in the transfer syntax of the last one.
        ordered = sorted(wanted.items(), key=lambda one: one[0][1] != "")
        proposals = (Proposal(2 * i + 1, sop_class, syntaxes) for i, ((sop_class, _), syntaxes) in enumerate(ordered))
        return Plan(frozenset(contexts), tuple(proposals))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _change_within(self, seconds: float, enough: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not enough():
                    await self._change()
        except TimeoutError:
            pass
