"""Servers of dcmtk, started for a test and ended with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@asynccontextmanager
async def dcmtk(program: str, *options: str, port: int = 0, before_port: tuple[str, ...] = ()) -> AsyncIterator[int]:
    """Run a server for the time of the context; yield its port once it answers."""
    found = shutil.which(program)
    assert found is not None
    port = port or free_port()
    server = subprocess.Popen(
        [found, *options, *before_port, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TCP_NODELAY": "1"},
    )
    try:
        await _wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait(20)


async def _wait_for(port: int) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise AssertionError("the server does not listen")
