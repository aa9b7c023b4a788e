"""What commands need that work on a data folder without a running node: workers, and a count."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicomnode import log
from dicomnode.backends import Backends, cancelled
from dicomnode.config import Config
from dicomnode.errors import Unavailable
from dicomnode.model.entry import Policy
from dicomnode.model.messages import INDEXING_GROUP, STORAGE_QUEUE
from dicomnode.node import make_announce, make_outbox, make_recorder
from dicomnode.ports.broker import Barrier, Broker, Remote
from dicomnode.roles.consumer import Consumer
from dicomnode.roles.outbox import Outbox
from dicomnode.roles.recorder import Recorder
from dicomnode.services.catch_up import CatchUp
from dicomnode.services.index import Index

_LOG = log.get("offline")
# So long without a row recorded; what is left then stays in the broker for the next run.
_MOST_FOR_ROWS_S = 30.0
_MOST_FOR_BROKER_S = 60.0
_LOOK_S = 0.2


@asynccontextmanager
async def indexing(config: Config, backends: Backends) -> AsyncIterator[None]:
    """Have what is published indexed, and recorded if there is a warehouse; on leaving without an error, all of it is.

    Where the broker is elsewhere so are those who index: then, on leaving without an error, it has all messages. What
    an earlier process left comes first. Raises: Unavailable.
    """
    async with AsyncExitStack() as stack:
        outbox = make_outbox(config, backends)
        if outbox is not None:
            await stack.enter_async_context(_handing_on(outbox))
        if not isinstance(backends.broker, Remote):
            await stack.enter_async_context(_indexing_here(config, backends))
        yield


@asynccontextmanager
async def _handing_on(outbox: Outbox) -> AsyncIterator[None]:
    async with outbox:
        task = asyncio.create_task(outbox.run())
        try:
            await _flush(outbox)
            yield
            await _flush(outbox)
        finally:
            await cancelled(task)


async def _flush(outbox: Outbox) -> None:
    if left := await outbox.flush(_MOST_FOR_BROKER_S):
        problem = f"{left} messages wait in the outbox for the broker; the next run on this data folder hands them on"
        raise Unavailable("outbox", problem)


async def caught_up(config: Config, broker: Broker) -> None:
    """Wait for those who index and record elsewhere while they get on; say on standard error what is not done."""
    if not isinstance(broker, Remote):
        return
    if left := await _while_it_shrinks(config, broker, ((STORAGE_QUEUE, INDEXING_GROUP),)):
        print(f"{left} received objects are not indexed yet: is a consumer running?", file=sys.stderr)
    if config.warehouse.use != "off" and (left := await _while_it_shrinks(config, broker, Recorder.work)):
        print(f"{left} rows are not recorded yet: is a recorder running?", file=sys.stderr)


async def _while_it_shrinks(config: Config, broker: Broker, queues: Sequence[tuple[str, str]]) -> int:
    """Wait until `queues` are empty, or do not get shorter for a while; return what is left in them."""
    least = left = await _left(broker, queues)
    until = time.monotonic() + config.consumer.catch_up_s
    while left and time.monotonic() < until:
        await asyncio.sleep(_LOOK_S)
        left = await _left(broker, queues)
        if left < least:
            least, until = left, time.monotonic() + config.consumer.catch_up_s
    return left


async def _left(broker: Broker, queues: Sequence[tuple[str, str]]) -> int:
    return sum([(await broker.lag(topic, group)).messages for topic, group in queues])


@asynccontextmanager
async def _indexing_here(config: Config, backends: Backends) -> AsyncIterator[None]:
    settled = CatchUp(backends.broker, None).settled
    index = Index(backends.database, backends.storage, Policy(config.ingest.duplicates))
    announce = make_announce(config, backends)
    async with AsyncExitStack() as stack:
        recorder = await stack.enter_async_context(make_recorder(config, backends))
        consumer = await stack.enter_async_context(Consumer(config.consumer, backends.broker, index, announce))
        tasks = [asyncio.create_task(role.run()) for role in (recorder, consumer)]
        try:
            await settled()
            await _recorded(backends.broker)
            yield
            await settled()
            await _recorded(backends.broker)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _recorded(broker: Broker) -> None:
    if not isinstance(broker, Barrier):
        return
    left = await _left(broker, Recorder.work)
    while True:
        try:
            async with asyncio.timeout(_MOST_FOR_ROWS_S):
                for topic, group in Recorder.work:
                    await broker.settled(topic, group)
                return
        except TimeoutError:
            before, left = left, await _left(broker, Recorder.work)
            if left >= before:
                _LOG.warning("recorder.behind", waited_s=_MOST_FOR_ROWS_S, rows=left)
                return


@contextmanager
def counting(what: str) -> Iterator[Callable[[], None]]:
    """Give a function that counts up on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda: progress.advance(task)
