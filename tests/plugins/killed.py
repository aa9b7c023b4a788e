"""A program that works with a plugin until it is killed: `python -m tests.plugins.killed WHAT FOLDER`.

It says on stdout what was promised to it, each promise on a line of its own, after it was made.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sys
from pathlib import Path

from dicomnode.model.entry import Policy
from dicomnode.model.warehouse import OBJECT, STATE
from dicomnode.ports.broker import Message
from dicomnode_duckdb.warehouse import DuckDbWarehouse
from dicomnode_duckdb.warehouse import Options as DuckDbOptions
from dicomnode_files.storage import FileStorage
from dicomnode_files.storage import Options as FileOptions
from dicomnode_sqlite.broker import Options as BrokerOptions
from dicomnode_sqlite.broker import SqliteBroker
from dicomnode_sqlite.database import Options as DatabaseOptions
from dicomnode_sqlite.database import SqliteDatabase
from tests.contracts.entries import entry
from tests.contracts.rows import object_row, state_row

TOPIC, GROUP = "storage_queue", "consumer"


def promise(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def body(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest() * 3000


async def storage(folder: Path) -> None:
    async with FileStorage(FileOptions(), folder) as files:

        async def sender(name: int) -> None:
            for number in itertools.count():
                key = f"a/{number % 5}/{name}/{number}.dcm"
                await files.put(key, [body(key)])
                promise(key)

        await asyncio.gather(*(sender(name) for name in range(4)))


async def broker(folder: Path) -> None:
    async with SqliteBroker(BrokerOptions(), folder) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)

        async def sender(name: int) -> None:
            for number in itertools.count():
                await queue.publish([Message(TOPIC, str(name), f"{name}:{number}".encode())])
                promise(f"published {name}:{number}")

        async def failing_sender() -> None:
            for number in itertools.count():

                async def fail() -> None:
                    await asyncio.sleep(0)
                    raise OSError("no")

                try:
                    await queue.publish_beside([Message(TOPIC, "bad", f"bad:{number}".encode())], fail())
                except OSError:
                    promise(f"withdrawn bad:{number}")

        async def worker() -> None:
            while True:
                taken = await subscription.take(10)
                odd = taken[::2]  # out of order: every second is left for ever
                await subscription.ack(odd)
                for delivery in odd:
                    promise(f"acknowledged {delivery.message.body.decode()}")

        await asyncio.gather(*(sender(name) for name in range(4)), failing_sender(), worker())


async def database(folder: Path) -> None:
    async with SqliteDatabase(DatabaseOptions(), folder) as index:
        for number in itertools.count():
            batch = [entry(f"1.{number % 7}", sop=f"5.{number}.{part}") for part in range(10)]
            await index.index(batch, Policy.KEEP_FIRST)
            promise(str(number))


async def warehouse(folder: Path) -> None:
    async with DuckDbWarehouse(DuckDbOptions(), folder) as rows:
        assert rows._open_file is not None
        rows._open_file.writing.execute("SET wal_autocheckpoint = '300KB'")  # so that many kills meet the log folded
        for number in itertools.count():
            size = 400 if number % 3 == 2 else 50
            batch = [object_row(number * 10_000 + part, file_path=f"{number}/{part:05}") for part in range(size)]
            await rows.record(OBJECT, batch)
            series = [state_row(f"1.{part}.1", updated_time=_later(number)) for part in range(20)]
            await rows.record(STATE, series)
            promise(f"{number} {size}")


def _later(number: int) -> str:
    return f"2026-01-02T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000Z"


if __name__ == "__main__":
    asyncio.run(
        {"storage": storage, "broker": broker, "database": database, "warehouse": warehouse}[sys.argv[1]](
            Path(sys.argv[2])
        )
    )
