"""Tell of requests that were answered, without any of them waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from dicomnode import log, metrics
from dicomnode.errors import PluginError
from dicomnode.model.messages import ACCESS_QUEUE, WadoAccessLog, encode
from dicomnode.ports.broker import Broker, Message

_LOG = log.get("access_log")
_EVERY_S = 0.1
_MOST = 10_000
_MOST_BYTES = 16 * 1024 * 1024
_AT_ONCE = 500
_BEFORE_OTHERS = 50  # rows made at a stretch, less than a millisecond
_FLUSH_S = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0

Row = Callable[[], WadoAccessLog]


class AccessLog:
    """Publish rows some moments after they were noted. Use as a context manager; on leaving, what waits goes out first.

    A broker that does not take them is tried again; meanwhile up to `most` rows of `most_bytes` wait, and any more are
    counted as lost. A request is answered in any case.
    """

    def __init__(self, broker: Broker, *, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._broker = broker
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[Row, int]] = deque()
        self._bytes = 0
        self._made: Sequence[Message] = ()
        self._noted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_losing = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="access log")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError, PluginError):
            async with asyncio.timeout(_FLUSH_S):
                await self._send_all()
        if left := len(self._made) + len(self._waiting):
            self._lose(left)

    def note(self, row: Row, size: int) -> None:
        """Have `row` made and published soon; it holds about `size` bytes until then."""
        if len(self._waiting) >= self._most or self._bytes + size > self._most_bytes:
            self._lose(1)
            return
        self._waiting.append((row, size))
        self._bytes += size
        self._noted.set()

    def _lose(self, rows: int) -> None:
        metrics.ACCESS_LOST.inc(rows)
        if not self._is_losing:
            self._is_losing = True
            _LOG.error("access_log.lost", rows=rows, hint="the broker does not take them; a metric counts on")

    async def _run(self) -> None:
        wait_s = _EVERY_S
        while True:
            await self._noted.wait()
            await asyncio.sleep(wait_s)
            try:
                await self._send_all()
            except PluginError as error:
                if wait_s == _EVERY_S:
                    _LOG.warning("access_log.delayed", error=str(error))
                wait_s = min(max(2 * wait_s, _FIRST_WAIT_S), _LONGEST_WAIT_S)
            else:
                wait_s = _EVERY_S
                if self._is_losing:
                    self._is_losing = False
                    _LOG.warning("access_log.back")

    async def _send_all(self) -> None:
        while self._made or self._waiting:
            if not self._made:
                self._made = await self._make()
            await self._broker.publish(self._made)
            self._made = ()
        self._noted.clear()

    async def _make(self) -> Sequence[Message]:
        """Return the messages of the next rows, which wait no more."""
        messages: list[Message] = []
        for number in range(min(_AT_ONCE, len(self._waiting))):
            make, size = self._waiting.popleft()
            self._bytes -= size
            row = make()
            messages.append(Message(ACCESS_QUEUE, row.request_id, encode(row)))
            if number % _BEFORE_OTHERS == _BEFORE_OTHERS - 1:
                await asyncio.sleep(0)
        return messages
