"""Import into a data folder that no other process has: straight through ingest, index and all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import IO

from dicomnode.backends import Backends, is_remote, opened
from dicomnode.cli.candidates import Candidate
from dicomnode.cli.import_tally import Outcome
from dicomnode.cli.offline import indexing
from dicomnode.config import Config
from dicomnode.dicom.part10 import FileMeta, read_file_meta
from dicomnode.errors import BadInstance
from dicomnode.model.instance import Arrival, Door
from dicomnode.node import make_ingest

_AT_ONCE = 8
_PORTS = ("storage", "broker", "database")
_HELD = 4 * 1024 * 1024
_DICOMDIR = "1.2.840.10008.1.3.10"

Told = Callable[[Candidate, Outcome, str], None]


async def import_local(config: Config, candidates: Iterator[Candidate], told: Told) -> None:
    """Take in every candidate and index it; call `told` with what became of each. Raises: ConfigError, PluginError."""
    ports = _PORTS if is_remote(config) else (*_PORTS, "warehouse")
    async with opened(config, ports) as backends, indexing(config, backends):
        await _Importer(config, backends).take_all(candidates, told)


class _Importer:
    def __init__(self, config: Config, backends: Backends) -> None:
        self._tenant = config.node.tenant
        self._most = config.server.limits.part
        self._database = backends.database
        self._ingest = make_ingest(config, backends)

    async def take_all(self, candidates: Iterator[Candidate], told: Told) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(candidate: Candidate) -> None:
            try:
                outcome, reason = await self._take(candidate)
            except BadInstance as error:
                outcome, reason = Outcome.REFUSED, str(error)
            finally:
                slots.release()
            told(candidate, outcome, reason)

        async with asyncio.TaskGroup() as group:
            while (candidate := await asyncio.to_thread(next, candidates, None)) is not None:
                await slots.acquire()
                group.create_task(one(candidate))

    async def _take(self, candidate: Candidate) -> tuple[Outcome, str]:
        with await asyncio.to_thread(candidate.open, self._most) as file:
            head = await asyncio.to_thread(file.read, _HELD)
            complete = len(head) < _HELD
            meta = read_file_meta(head, complete=True)
            assert meta is not None
            if meta.sop_class_uid == _DICOMDIR:
                return Outcome.SKIPPED, "a DICOMDIR lists objects and is none"
            if await self._is_known(meta, file, head):
                return Outcome.DUPLICATE, ""
            arrival = Arrival(self._tenant, Door.IMPORT, meta.transfer_syntax_uid)
            first = memoryview(head)[meta.data_set_offset :]
            if complete:
                stored = await self._ingest.store(arrival, first)
            else:
                stored = await self._ingest.store_stream(arrival, first, _chunks(file))
            return Outcome.NEW, "; ".join(stored.warnings)

    async def _is_known(self, meta: FileMeta, file: IO[bytes], head: bytes) -> bool:
        """Tell whether the same data set is kept already. Leaves `file` where it stood."""
        if not meta.sop_instance_uid:
            return False
        kept = await self._database.locate(self._tenant, "", "", meta.sop_instance_uid)
        if not kept:
            return False
        digest = await asyncio.to_thread(_digest, file, head, meta.data_set_offset)
        return any(location.sha256 == digest for location in kept)


def _digest(file: IO[bytes], head: bytes, offset: int) -> str:
    digest = hashlib.sha256(memoryview(head)[offset:])
    place = file.tell()
    while chunk := file.read(_HELD):
        digest.update(chunk)
    file.seek(place)
    return digest.hexdigest()


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, _HELD):
        yield chunk
