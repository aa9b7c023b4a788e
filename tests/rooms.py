"""The services over real plugins, with a consumer that indexes, and the web door before them when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode import plug
from dicomnode.config import ConsumerTable, IngestTable, PluginTable, ServerTable
from dicomnode.documents import Documents
from dicomnode.model.entry import Policy
from dicomnode.model.instance import Arrival, Door, Stored
from dicomnode.ports.broker import Broker
from dicomnode.ports.cache import Cache
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage
from dicomnode.roles.consumer import Consumer
from dicomnode.roles.server.role import Server
from dicomnode.services.catch_up import CatchUp
from dicomnode.services.describe import Describe
from dicomnode.services.find import Find
from dicomnode.services.index import Index
from dicomnode.services.ingest import Ingest
from dicomnode.services.measure import Measure
from dicomnode.services.performed import PerformedSteps
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.worklist import Worklist
from tests.corpus import data_set_of, part10

EMBEDDED = {"storage": "files", "broker": "sqlite", "database": "sqlite", "cache": "memory"}
IN_MEMORY = dict.fromkeys(EMBEDDED, "memory")


class Rooms(msgspec.Struct, frozen=True):
    """The plugins and services of one node."""

    storage: Storage
    broker: Broker
    database: Database
    cache: Cache
    ingest: Ingest
    find: Find
    retrieve: Retrieve
    describe: Describe
    worklist: Worklist
    performed: PerformedSteps
    measure: Measure

    def backends(self) -> dict[str, Any]:
        return {port: getattr(self, port) for port in EMBEDDED}

    async def take_in(self, ds: Dataset, syntax: UID = ExplicitVRLittleEndian, tenant: str = "default") -> Stored:
        """Have `ds` kept and announced."""
        return await self.take_in_bytes(data_set_of(part10(ds, syntax)), syntax, tenant)

    async def take_in_bytes(
        self, data_set: bytes, syntax: str = ExplicitVRLittleEndian, tenant: str = "default"
    ) -> Stored:
        return await self.ingest.store(Arrival(tenant, Door.STOW, str(syntax)), data_set)


@asynccontextmanager
async def open_rooms(
    tmp_path: Path, uses: dict[str, str] | None = None, *, most: int = 1000, policy: Policy = Policy.KEEP_FIRST
) -> AsyncIterator[Rooms]:
    """Have everything open and the consumer running."""
    uses = uses or IN_MEMORY
    async with AsyncExitStack() as stack:

        async def opened(port: str, kind: type[Any]) -> Any:
            return await stack.enter_async_context(plug.make(port, kind, PluginTable(uses[port]), tmp_path))

        storage, broker = await opened("storage", Storage), await opened("broker", Broker)
        database, cache = await opened("database", Database), await opened("cache", Cache)
        consumer = Consumer(ConsumerTable(linger_s=0.01), broker, Index(database, storage, policy))
        await stack.enter_async_context(consumer)
        running = asyncio.create_task(consumer.run())
        stack.push_async_callback(_cancelled, running)
        caught_up = CatchUp(broker, None).settled
        worklist = Worklist(Documents(tmp_path / "worklist", "default", "worklist"), 1000)
        retrieve = Retrieve(storage, database, caught_up)
        yield Rooms(
            storage,
            broker,
            database,
            cache,
            Ingest(storage, broker, IngestTable()),
            Find(database, caught_up, most),
            retrieve,
            Describe(retrieve, cache),
            worklist,
            PerformedSteps(Documents(tmp_path / "performed", "default", "performed"), worklist),
            Measure(broker, Consumer.queues),
        )


@asynccontextmanager
async def open_door(
    rooms: Rooms, table: ServerTable | None = None, tenant: str = "default", **more: Any
) -> AsyncIterator[Server]:
    """Have the web door open on a free port and serving."""
    server = Server(
        table or ServerTable(port=0),
        tenant,
        ingest=rooms.ingest,
        find=rooms.find,
        retrieve=rooms.retrieve,
        describe=rooms.describe,
        worklist=rooms.worklist,
        performed=rooms.performed,
        measure=rooms.measure,
        backends=rooms.backends(),
        **more,
    )
    async with server:
        running = asyncio.create_task(server.run())
        try:
            yield server
        finally:
            await _cancelled(running)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
