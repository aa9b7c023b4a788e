"""Where the bytes of a data set go as they arrive: one reused buffer, then a bounded stream of chunks. No I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from dicomnode.dicom.digest import Digest
from dicomnode.errors import NodeError

_FIRST = 64 * 1024
_CHUNK = 1024 * 1024
_KEPT = 1024 * 1024  # a larger buffer is let go when the association falls quiet
_WAITING_MOST = 4


class Rest:
    """The chunks of a data set behind the part held in memory; read once, in order.

    Raises: what ended the association, when it ends before the data set does.
    """

    def __init__(self, wanted: Callable[[], None]) -> None:
        self._wanted = wanted
        self._chunks: deque[memoryview] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: NodeError | None = None
        self._over = False
        self._unread = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            await self._news()
        chunk = self._chunks.popleft()
        if len(self._chunks) < _WAITING_MOST:
            self._wanted()
        return chunk

    async def drain(self) -> None:
        """Return when the sender has sent it all; what was not read is thrown away as it comes."""
        self._unread = True
        self._chunks.clear()
        self._wanted()
        while not self._over:
            if self._error is not None:
                raise self._error
            await self._news()

    @property
    def full(self) -> bool:
        """Whether the reader is behind, so that no more should be read from the network."""
        return len(self._chunks) >= _WAITING_MOST

    def push(self, chunk: memoryview) -> None:
        """Hand on the next chunk."""
        if not self._unread and chunk:
            self._chunks.append(chunk)
            self._wake()

    def finish(self, error: NodeError | None = None) -> None:
        """Let the reader end: properly, or with `error`. Only the first call counts."""
        if not self._over and self._error is None:
            self._over = error is None
            self._error = error
            self._wake()

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Room:
    """The buffer of one association. Small data sets lie in it whole; of a large one the first `held` bytes."""

    __slots__ = ("_buffer", "_held", "_view", "_wanted", "digest", "rest", "total", "used")

    def __init__(self, held: int, wanted: Callable[[], None]) -> None:
        self._held = max(held, 1)
        self._wanted = wanted
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self.used = 0
        self.total = 0
        self.rest: Rest | None = None
        self.digest: Digest | None = None  # of what is here, where somebody will want it

    def space(self, most: int) -> memoryview:
        """Return where at most `most` of the next bytes belong; never empty."""
        if self.used == len(self._buffer):
            self._extend()
        return self._view[self.used : self.used + most]

    def filled(self, size: int) -> None:
        """Take note that `size` bytes were put where `space` said."""
        self.used += size
        self.total += size
        if self.digest is not None:
            self.digest.advance(self._view, self.used)

    def overflows(self, more: int) -> bool:
        """Tell whether `more` bytes will not fit into what is held in memory, so that the rest is to be streamed."""
        return self.rest is None and self.used + more > self._held

    def stream(self) -> tuple[memoryview, Rest]:
        """Let go of the first part, whose buffer is the reader's from now on, and go on in chunks."""
        first = self._view[: self.used]
        self.digest = None
        self.rest = Rest(self._wanted)
        self._set(_CHUNK)
        return first, self.rest

    def whole(self) -> memoryview:
        """Return the data set, all of which is here."""
        return self._view[: self.used]

    def flush(self) -> None:
        """Hand the last chunk on; the data set is complete."""
        if self.rest is not None:
            self.rest.push(self._view[: self.used])
            self.rest.finish()
            self.rest = None
            self._buffer = bytearray()
            self._view = memoryview(self._buffer)

    def empty(self) -> None:
        """Be ready for the next data set, in the same buffer."""
        self.used = self.total = 0
        self.digest = None

    def shrink(self) -> None:
        """Let a large buffer go; only between messages."""
        if len(self._buffer) > _KEPT:
            self._buffer = bytearray()
            self._view = memoryview(self._buffer)

    def close(self) -> None:
        """Let the buffer go; nothing more will come."""
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)

    def _extend(self) -> None:
        if self.rest is not None:
            self.rest.push(self._view[: self.used])
            self._set(_CHUNK)
            return
        # Doubling only as bytes arrive: a length that lies costs nothing.
        old = self._view
        self._buffer = bytearray(min(max(len(old) * 2, _FIRST), self._held))
        self._view = memoryview(self._buffer)
        self._view[: len(old)] = old

    def _set(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self.used = 0
