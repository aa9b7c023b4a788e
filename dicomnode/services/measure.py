"""Measure how far the workers of this process are behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dicomnode import log, metrics
from dicomnode.errors import NodeError
from dicomnode.ports.broker import Broker, Lag

_LOG = log.get("measure")
_MOST_S = 1.0


class Measure:
    """Tell Prometheus the lag of each of `queues`: topics, each with its group; and what `also` tells."""

    def __init__(self, broker: Broker, queues: Sequence[tuple[str, str]], also: Measure | None = None) -> None:
        self._broker = broker
        self._queues = queues
        self._also = also
        self._asking: dict[tuple[str, str], asyncio.Task[Lag]] = {}

    async def refresh(self) -> None:
        """Have the gauges say what the broker says now; a queue that it cannot tell of within a second has none.

        A question that takes longer is not asked a second time meanwhile.
        """
        tasks = [self._ask(queue) for queue in self._queues]
        if tasks:
            await asyncio.wait(tasks, timeout=_MOST_S)
        for queue, task in zip(self._queues, tasks, strict=True):
            _tell(queue, _lag(task))
        if self._also is not None:
            await self._also.refresh()

    def _ask(self, queue: tuple[str, str]) -> asyncio.Task[Lag]:
        task = self._asking.get(queue)
        if task is None:
            task = self._asking[queue] = asyncio.create_task(self._broker.lag(*queue))
            task.add_done_callback(lambda _: self._asking.pop(queue, None))
        return task


def _lag(task: asyncio.Task[Lag]) -> Lag | None:
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, NodeError):
        raise error
    _LOG.debug("lag.unknown", error=str(error))
    return None


def _tell(queue: tuple[str, str], lag: Lag | None) -> None:
    if lag is None:
        # A number that was true some time ago would hide that nobody knows.
        metrics.QUEUE_LAG.remove(*queue)
        metrics.QUEUE_AGE.remove(*queue)
        return
    metrics.QUEUE_LAG.labels(*queue).set(lag.messages)
    metrics.QUEUE_AGE.labels(*queue).set(lag.oldest_s)
