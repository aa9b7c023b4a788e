"""Puts and reads of the storages, each alone: `python -m bench.storage [OBJECTS]`. JSON, one a line.

The bucket is one of a Swift on this machine, or that of DICOMNODE_TEST_S3_URL; the folder and the blocks that are kept
are in a temporary folder (TMPDIR). `mine_ms` is the processor time of this process an object, which is what a node has.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import uvloop

from dicomnode.ports.storage import Storage
from dicomnode_files.storage import FileStorage
from dicomnode_files.storage import Options as FileOptions
from dicomnode_s3.place import Options
from dicomnode_s3.storage import S3Storage
from tests.backends import s3

META = os.urandom(400)
SIZES = {"512 KB": 512 * 1024, "12 KB": 12 * 1024}


@asynccontextmanager
async def contestants(folder: Path) -> AsyncIterator[dict[str, Storage]]:
    with s3.running() as server:
        async with AsyncExitStack() as stack:

            async def opened(name: str, **more: object) -> Storage:
                told = s3.options("storage", server) | {"cache_dir": str(folder / name), **more}
                return await stack.enter_async_context(S3Storage(msgspec.convert(told, Options), folder))

            yield {
                "files": await stack.enter_async_context(FileStorage(FileOptions(), folder)),
                "s3, nothing kept": await opened("a", cache_bytes=0),
                "s3": await opened("b"),
                "s3, write_through": await opened("c", write_through=True),
            }


async def rate(count: int, at_once: int, one: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await one(number)

    mine, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    took = time.perf_counter() - began
    return {"per_s": round(count / took, 1), "mine_ms": round((time.process_time() - mine) / count * 1000, 3)}


async def measure(name: str, storage: Storage, kind: str, at_once: int, count: int) -> None:
    body, folder = os.urandom(SIZES[kind]), f"bench/{time.time_ns()}"
    whole = len(META) + len(body)

    async def put(number: int) -> None:
        await storage.put(f"{folder}/{number}", [META, body])

    async def head(number: int) -> None:
        assert len(await storage.read(f"{folder}/{number}", len(META), 4096)) == 4096

    async def read(number: int) -> None:
        assert len(await storage.read(f"{folder}/{number}", 0, whole)) == whole

    for what, one in (("put", put), ("first read, 4 KB", head), ("read", read), ("read again", read)):
        told = {"storage": name, "objects": kind, "at_once": at_once, "what": what}
        print(json.dumps(told | await rate(count, at_once, one)), flush=True)
    await storage.delete([f"{folder}/{number}" for number in range(count)])


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with contestants(Path(name)) as storages:
            for kind in SIZES:
                for at_once in (1, 16):
                    for storage_name, storage in storages.items():
                        await measure(storage_name, storage, kind, at_once, count)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
