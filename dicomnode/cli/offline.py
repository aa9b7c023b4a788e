"""What commands need that work on a data folder without a running node: an indexing consumer, and a count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicomnode.config import Config
from dicomnode.model.entry import Policy
from dicomnode.node import Backends
from dicomnode.roles.consumer import Consumer
from dicomnode.services.catch_up import CatchUp
from dicomnode.services.index import Index


@asynccontextmanager
async def indexing(config: Config, backends: Backends) -> AsyncIterator[None]:
    """Have what is published indexed; on leaving without an error, all of it is.

    What an earlier process left to be indexed comes first.
    """
    settled = CatchUp(backends.broker, None).settled
    index = Index(backends.database, backends.storage, Policy(config.ingest.duplicates))
    async with Consumer(config.consumer, backends.broker, index) as consumer:
        task = asyncio.create_task(consumer.run())
        try:
            await settled()
            yield
            await settled()
        finally:
            task.cancel()
            await asyncio.wait([task])


@contextmanager
def counting(what: str) -> Iterator[Callable[[], None]]:
    """Give a function that counts up on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda: progress.advance(task)
