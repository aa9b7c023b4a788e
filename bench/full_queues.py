"""What one worker process does from a full queue: `python -m bench.full_queues [INSTANCES]`. JSON, one a line.

A consumer into PostgreSQL, a recorder into ClickHouse, over Kafka, each alone; `per_core_s` counts the processor time
of the process itself, which is what sizes a plant (bench/capacity.py), `per_s` the wall.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.cluster import toml
from bench.contestants import ROOT
from bench.database import entry
from bench.processes import Failed, Process
from dicomnode import plug
from dicomnode.config import PluginTable
from dicomnode.model.messages import (
    LOG_QUEUE,
    STORAGE_QUEUE,
    Attributes,
    DicomObjectMeta,
    encode,
    without_attributes,
)
from dicomnode.ports.broker import Broker, Message
from dicomnode.ports.database import Database
from dicomnode.ports.warehouse import Warehouse
from tests.backends import clickhouse, kafka, postgres

_BATCH = 500


def metas(count: int) -> Iterable[DicomObjectMeta]:
    """Yield what a storescp would have published for CT slices."""
    for number in range(count):
        one = entry(number)
        yield DicomObjectMeta(
            trace_id=f"01a1fe3c-ce83-7bd6-a86b-{number:012x}",
            worker_node_id="DICOM_STORE_SCP",
            tenant_id=one.tenant,
            patient_id=one.patient_id,
            study_uid=one.study_uid,
            series_uid=one.series_uid,
            sop_uid=one.sop_uid,
            sop_class_uid=one.sop_class_uid,
            file_size=one.size,
            file_path=one.key,
            data_set_offset=one.data_set_offset,
            sha256=one.sha256,
            transfer_syntax_uid=one.transfer_syntax_uid,
            number_of_frames=1,
            created_time=one.received,
            updated_time=one.received,
            source_ip="192.0.2.7",
            source_ae="CT1",
            attributes=Attributes.of(one.fragments),
        )


async def fill(broker: Broker, topic: str, found: Iterable[DicomObjectMeta]) -> float:
    """Publish all of it; return messages a second."""
    messages = [Message(topic, meta.study_uid, encode(meta)) for meta in found]
    started = time.perf_counter()
    for start in range(0, len(messages), _BATCH):
        await broker.publish(messages[start : start + _BATCH])
    return len(messages) / (time.perf_counter() - started)


async def work_off(
    role: str, tables: dict[str, str], folder: Path, done: Callable[[], Any], count: int
) -> dict[str, int]:
    """Start a process of `role`; return how many it did a second, and a second of its processor's time."""
    config = folder / f"{role}.toml"
    config.write_text("\n".join([f'[node]\ndata_dir = "{folder}/{role}"', *tables.values(), ""]))
    argv = [str(ROOT / ".venv/bin/dicomnode"), "run", "--role", role, "--config", str(config)]
    place = folder / f"{role}-said"
    place.mkdir()
    with Process(argv, place, dict(os.environ)) as process:
        process.wait_for(lambda: b"ready" in process.out.read_bytes(), "ready")
        began, spent = time.perf_counter(), process.processor_s()
        while (found := await done()) < count:
            if time.perf_counter() - began > 300:
                raise Failed(f"{role} had done {found} of {count} after 300 s")
            await asyncio.sleep(0.1)
        return {
            "per_s": round(count / (time.perf_counter() - began)),
            "per_core_s": round(count / (process.processor_s() - spent)),
        }


def say(what: str, **figures: float) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


async def main(count: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicomnode-bench-")))
        synced = ("fsync = on", "shared_buffers = 512MB")
        options: dict[str, dict[str, Any]] = {
            "broker": {"url": stack.enter_context(kafka.running()).url},
            "database": {"url": stack.enter_context(postgres.running(synced, own=True)).url},
            "warehouse": clickhouse.options("warehouse", stack.enter_context(clickhouse.running())),
        }
        uses = {"broker": "kafka", "database": "postgres", "warehouse": "clickhouse"}
        tables = {
            port: f'[{port}]\nuse = "{uses[port]}"\n[{port}.options]\n{toml(told)}' for port, told in options.items()
        }
        made = {
            port: plug.make(port, kind, PluginTable(uses[port], options[port]), folder)
            for port, kind in (("broker", Broker), ("database", Database), ("warehouse", Warehouse))
        }
        for plugin in made.values():
            await plugin.__aenter__()
        try:
            await _measure(made, tables, folder, count)
        finally:
            for plugin in made.values():
                await plugin.__aexit__(None, None, None)


async def _measure(made: dict[str, Any], tables: dict[str, str], folder: Path, count: int) -> None:
    async def indexed() -> int:
        return int((await made["database"].counts()).instances)

    async def recorded() -> int:
        return int((await made["warehouse"].counts())["dicom_object_meta"])

    say("publish, storage_queue", per_s=round(await fill(made["broker"], STORAGE_QUEUE, metas(count))))
    say("consumer", **await work_off("consumer", tables, folder, indexed, count))
    logged = (without_attributes(meta) for meta in metas(count))
    say("publish, log_queue", per_s=round(await fill(made["broker"], LOG_QUEUE, logged)))
    say("recorder", **await work_off("recorder", tables, folder, recorded, count))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
