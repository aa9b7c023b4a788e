"""How far a group is within one partition: pure, and small enough to be kept with the committed offset.

Kafka remembers for a group one offset a partition, below which all is done, and a short text beside it. Messages are
acknowledged in any order, so the text tells what is done beyond that offset.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

# The servers' offset.metadata.max.bytes is 4096 where nobody has changed it.
ROOM = 4000
_MARK = "done:"
_RANGE = re.compile(r"([0-9a-f]{1,16})\+([0-9a-f]{1,16})")

Range = tuple[int, int]
State = tuple[int, str]


class Progress:
    """What of one partition is done: all below `base`, and ranges beyond it. `next` is the next to be read.

    What lies below `seen_to` may have been given to someone before.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.next = base
        self.seen_to = base
        self.kept: State | None = None
        self._beyond: list[Range] = []

    def reached(self, offset: int) -> bool:
        """Note that `offset` was read; tell whether it is to be worked on. What it skips is not there: it is done."""
        if offset < self.next:
            return False
        if offset > self.next:
            self.settle(self.next, offset)
        self.next = offset + 1
        return not self._is_done(offset)

    def _is_done(self, offset: int) -> bool:
        if offset < self.base or not self._beyond:
            return offset < self.base
        place = bisect_right(self._beyond, offset, key=_start) - 1
        return place >= 0 and offset < self._beyond[place][1]

    def settle_all(self, offsets: list[int]) -> None:
        """Note that `offsets` are done, as far as they were read."""
        start = stop = -1
        for offset in sorted(offset for offset in offsets if offset < self.next):
            if offset != stop:
                self.settle(start, stop)
                start = offset
            stop = offset + 1
        self.settle(start, stop)

    def settle(self, start: int, stop: int) -> None:
        """Note that all from `start`, and before `stop`, is done."""
        start = max(start, self.base)
        if start >= stop:
            return
        first = bisect_left(self._beyond, start, key=_stop)
        last = bisect_right(self._beyond, stop, key=_start)
        if first < last:
            start, stop = min(start, self._beyond[first][0]), max(stop, self._beyond[last - 1][1])
        self._beyond[first:last] = [(start, stop)]
        if self._beyond[0][0] <= self.base:
            self.base = self._beyond.pop(0)[1]
        self.next = max(self.next, self.base)

    def unread(self, offset: int) -> None:
        """Have `offset`, and what comes after it, read again."""
        self.next = max(self.base, min(self.next, offset))

    def again(self) -> None:
        """Have all that is not done read again."""
        self.seen_to = max(self.seen_to, self.next)
        self.next = self.base

    def resume(self, base: int, beyond: list[Range], end: int) -> None:
        """Take in what was done elsewhere meanwhile; up to `end` it may have been given there."""
        self.settle(self.base, base)
        for start, stop in beyond:
            self.settle(start, stop)
        self.seen_to = max(self.seen_to, end)

    def in_hand(self) -> int:
        """Return how many were read and are not done."""
        return self.next - self.base - sum(min(stop, self.next) - min(start, self.next) for start, stop in self._beyond)

    def state(self, room: int = ROOM) -> State:
        """Return what is to be committed. What does not fit into `room` bytes comes again after a restart."""
        parts: list[str] = []
        left, last = room - len(_MARK), self.base
        for start, stop in self._beyond:
            part = f"{start - last:x}+{stop - start:x}"
            left -= len(part) + 1
            if left < 0:
                break
            parts.append(part)
            last = stop
        return self.base, _MARK + ",".join(parts) if parts else ""


def _start(some: Range) -> int:
    return some[0]


def _stop(some: Range) -> int:
    return some[1]


def beyond(base: int, text: str) -> list[Range]:
    """Return what `text`, committed with `base`, says is done beyond it; nothing where it is not ours."""
    ranges: list[Range] = []
    last = base
    for part in text.removeprefix(_MARK).split(",") if text.startswith(_MARK) else ():
        found = _RANGE.fullmatch(part)
        if found is None:
            return []
        start = last + int(found[1], 16)
        last = start + int(found[2], 16)
        ranges.append((start, last))
    return ranges
