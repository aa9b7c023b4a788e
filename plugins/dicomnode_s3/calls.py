"""Requests under way. One that was begun always ends, also when nobody waits for it any more; `close` waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dicomnode_s3.failures import DRIVER, told

T = TypeVar("T")


class Calls:
    """At most `most` requests at a time."""

    def __init__(self, most: int) -> None:
        self._room = asyncio.Semaphore(max(1, most))
        self._under_way: set[asyncio.Task[Any]] = set()

    async def make(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call()` gives, once there is room for it; its errors become ours."""
        try:
            return await asyncio.shield(await self.begin(call))
        except DRIVER as error:
            raise told(error) from error

    async def make_to_its_end(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call()` gives; its errors stay what they are. A cancellation arrives after it has ended."""
        return await ended(await self.begin(call))

    async def begin(self, call: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Return `call()` as a task, once there is room for it."""
        await self._room.acquire()
        task = asyncio.ensure_future(_awaited(call))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        self._room.release()
        if not task.cancelled():
            task.exception()  # or asyncio would complain that nobody looked at it

    async def close(self) -> None:
        """Wait for all that is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)


async def ended(task: asyncio.Task[T]) -> T:
    """Return the result of `task`. Cancelling who waits lets it end first."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
