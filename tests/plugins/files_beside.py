"""One of several machines at a shared folder: `python -m tests.plugins.files_beside ROOT DATA NAME COUNT`.

It puts and deletes in folders that the others use too, and leaves every fifth object.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dicomnode_files.storage import FileStorage, Options


async def main(root: str, data_dir: str, name: str, count: int) -> None:
    Path(data_dir).mkdir(exist_ok=True)
    async with FileStorage(Options(root=root, reserve_bytes=0), Path(data_dir)) as files:

        async def come_and_go(worker: int) -> None:
            for number in range(count):
                key = f"tenant/{number % 3}/study/{name}-{worker}-{number}.dcm"
                await files.put(key, [key.encode()])
                assert await files.read(key) == key.encode()
                if number % 5:
                    await files.delete([key])

        await asyncio.gather(*(come_and_go(worker) for worker in range(4)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
