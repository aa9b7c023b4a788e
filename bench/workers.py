"""How fast a consumer and a recorder are, each on a full queue in memory: `python -m bench.workers [INSTANCES]`. JSON.

`per_mine_s` counts by this process's own time on a core, which is what one process for a role has; `per_s` by the
clock, waits for the database included. PostgreSQL is a server of its own, whose commits are synced.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from pydicom.uid import ExplicitVRLittleEndian

from bench.micro import Source, ct, encoded
from dicomnode import plug
from dicomnode.config import ConsumerTable, PluginTable, RecorderTable
from dicomnode.dicom.header import read_header
from dicomnode.dicom.image_state import image_meta
from dicomnode.model.entry import Policy
from dicomnode.model.instance import Arrival, Door, receipt_id
from dicomnode.model.messages import (
    IMAGE_QUEUE,
    INDEXING_GROUP,
    LOG_QUEUE,
    STATE_QUEUE,
    STORAGE_QUEUE,
    DicomObjectMeta,
    encode,
    object_meta,
    without_attributes,
)
from dicomnode.ports.broker import Message
from dicomnode.ports.database import Database
from dicomnode.ports.warehouse import Warehouse
from dicomnode.roles.consumer import Consumer
from dicomnode.roles.recorder import Recorder
from dicomnode.services.announce import Announce
from dicomnode.services.index import Index
from dicomnode.services.record import Record
from dicomnode_memory.broker import MemoryBroker
from dicomnode_memory.storage import MemoryStorage
from tests.backends import postgres

_IN_SERIES, _SERIES_IN_STUDY, _MADE = 100, 4, 2000


def metas(instances: int) -> list[DicomObjectMeta]:
    """Return CT slices as a door tells of them, 400 in a study of four series."""
    source = Source(encoded(ct(2048), ExplicitVRLittleEndian))
    made = [_meta(source, number) for number in range(min(instances, _MADE))]
    return [_as(made[number % len(made)], number) for number in range(instances)]


def _meta(source: Source, number: int) -> DicomObjectMeta:
    data_set = source(number)
    header = read_header(data_set, source.syntax)
    assert header is not None
    arrival = Arrival("default", Door.STORESCP, source.syntax)
    return object_meta(arrival, header, "default/20240131/1/2/3.dcm", 400, len(data_set), "0" * 64)


def _as(meta: DicomObjectMeta, number: int) -> DicomObjectMeta:
    """Return `meta` as another instance of its own, in the study and series that it then belongs to."""
    root = "1.2.826.0.1.3680043.8.498.20240131"
    study, series = f"{root}.1.{number // _IN_SERIES // _SERIES_IN_STUDY}", f"{root}.2.{number // _IN_SERIES}"
    fragments = meta.attributes.fragments()
    changed = msgspec.structs.replace(
        meta.attributes,
        study=msgspec.Raw(fragments.study.replace("1.2.826.0.1.3680043.8.498.1", study).encode()),
        series=msgspec.Raw(fragments.series.replace("1.2.826.0.1.3680043.8.498.1.2", series).encode()),
    )
    sop, receipt = f"{root}.3.{number}", receipt_id()
    return msgspec.structs.replace(
        meta,
        trace_id=f"{number:036d}",
        study_uid=study,
        series_uid=series,
        sop_uid=sop,
        sha256=f"{number:064x}",
        file_path=f"default/20240131/{study}/{series}/{sop}-{receipt}.dcm",
        attributes=changed,
    )


async def consume(name: str, options: dict[str, Any], told: list[DicomObjectMeta], read: frozenset[str]) -> None:
    """Index what a full queue tells of."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        broker = await stack.enter_async_context(MemoryBroker(MemoryBroker.Options(), folder))
        database = plug.make("database", Database, PluginTable(name, options), folder)
        await stack.enter_async_context(database)
        await broker.subscribe(IMAGE_QUEUE, "bench")
        await broker.subscribe(STATE_QUEUE, "bench")
        index = Index(database, MemoryStorage(MemoryStorage.Options(), folder), Policy.KEEP_FIRST)
        consumer = Consumer(ConsumerTable(), broker, index, Announce(broker, database, read))
        await stack.enter_async_context(consumer)
        await broker.publish([Message(STORAGE_QUEUE, meta.study_uid, encode(meta)) for meta in told])
        what = "consumer, and tells of it" if read else "consumer"
        await _timed(what, name, len(told), consumer.run, lambda: broker.settled(STORAGE_QUEUE, INDEXING_GROUP))


async def record(name: str, options: dict[str, Any], topic: str, rows: list[msgspec.Struct]) -> None:
    """Record what a full queue tells of."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        broker = await stack.enter_async_context(MemoryBroker(MemoryBroker.Options(), folder))
        warehouse = plug.make("warehouse", Warehouse, PluginTable(name, options), folder)
        await stack.enter_async_context(warehouse)
        recorder = await stack.enter_async_context(Recorder(RecorderTable(), broker, Record(warehouse)))
        await broker.publish([Message(topic, "study", encode(row)) for row in rows])
        await _timed(f"recorder, {topic}", name, len(rows), recorder.run, lambda: broker.settled(topic, "recorder"))


async def _timed(
    what: str,
    backend: str,
    count: int,
    work: Callable[[], Awaitable[None]],
    done: Callable[[], Awaitable[None]],
) -> None:
    started, own = time.perf_counter(), time.process_time()
    task = asyncio.ensure_future(work())
    await done()
    took, mine = time.perf_counter() - started, time.process_time() - own
    task.cancel()
    await asyncio.wait([task])
    line = {"what": what, "backend": backend, "per_s": round(count / took), "per_mine_s": round(count / mine)}
    print(json.dumps(line), flush=True)


async def main(instances: int) -> None:
    told = metas(instances)
    everything = frozenset({IMAGE_QUEUE, STATE_QUEUE})
    with postgres.running(("fsync = on", "shared_buffers = 512MB"), own=True) as server:
        for read in (frozenset[str](), everything):
            await consume("sqlite", {}, told, read)
            await consume("postgres", {"url": server.url, "schema": f"bench{len(read)}"}, told, read)
    for name in ("off", "duckdb"):
        await record(name, {}, LOG_QUEUE, [without_attributes(meta) for meta in told])
        await record(name, {}, IMAGE_QUEUE, [image_meta(meta) for meta in told])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
