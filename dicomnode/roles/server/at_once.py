"""Answers that are at hand whole: head and body go to the socket in one system call, with no copy in between.

Frames come by the thousand a second, and aiohttp's own way to send one costs more than reading it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from time import time

from aiohttp import HttpVersion11, web

Buffer = bytes | memoryview


class _Sent(web.StreamResponse):
    """A response that has gone out already, as aiohttp wants to be given one for every request."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Tell whether the connection stays open for a next request."""
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head has gone out."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the body has gone out."""


def suits(request: web.BaseRequest) -> bool:
    """Tell whether `send` may answer `request`."""
    return request.version == HttpVersion11 and request.method != "HEAD"


async def send(
    request: web.BaseRequest, pieces: Sequence[Buffer], headers: Mapping[str, str], idle_s: float
) -> web.StreamResponse:
    """Answer 200 with `pieces` as the body; wait while the client is slow to take it, `idle_s` at the most.

    Raises: ConnectionResetError, TimeoutError.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    last = "" if request.keep_alive else "Connection: close\r\n"
    length = sum(map(len, pieces))
    head = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\nDate: {_date(int(time()))}\r\n{last}\r\n"
    transport.writelines((head.encode("latin-1"), *pieces))
    if transport.get_write_buffer_size():
        async with asyncio.timeout(idle_s):
            await request.writer.drain()
    return _Sent(keep_alive=request.keep_alive)


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
