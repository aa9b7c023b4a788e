"""A peer that says exactly the bytes it is told to, and a node end with a handler that records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from dicomnode.config import LimitsTable, StoreScpTable
from dicomnode.dimse import command
from dicomnode.dimse.items import Associate
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.responder import Caller, Handlers, Operations, StoreRequest
from dicomnode.dimse.scp import Visitor
from tests.dimse.requests import request


class Recording:
    """Keeps what it is sent; answers `status`, after `gate` is opened where there is one."""

    def __init__(self) -> None:
        self.status = 0
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.operations: Operations = {}
        self.requests: list[StoreRequest] = []
        self.data: list[bytes] = []

    async def store(self, request: StoreRequest) -> int:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        data = bytes(request.data)
        if request.rest is not None:
            data += b"".join([bytes(chunk) async for chunk in request.rest])
        self.requests.append(request)
        self.data.append(data)
        return self.status


def anyone(request: Associate, visitor: Visitor) -> Caller:
    return Caller(request.calling_aet, request.called_aet, visitor.peer_ip, "default")


@asynccontextmanager
async def listening(handlers: Handlers, limits: LimitsTable | None = None) -> AsyncIterator[Listener]:
    listener = Listener(StoreScpTable(port=0, limits=limits or LimitsTable(drain_s=1)), anyone, handlers)
    await listener.open()
    try:
        yield listener
    finally:
        await listener.drain()
        for peer in _OPEN:
            await peer.close()
        _OPEN.clear()


class RawPeer:
    """One socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, listener: Listener) -> RawPeer:
        peer = cls(*await asyncio.open_connection(*listener.address))
        _OPEN.append(peer)
        return peer

    async def associate(self, raw: bytes | None = None) -> int:
        """Ask for an association; return the type of the answer."""
        await self.send(request() if raw is None else raw)
        answer = await self.pdu()
        assert answer is not None
        return answer[0]

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def pdu(self) -> tuple[int, bytes] | None:
        """Return the next PDU's type and body, None when the socket is closed."""
        try:
            head = await self._reader.readexactly(6)
            return head[0], await self._reader.readexactly(int.from_bytes(head[2:], "big"))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None

    async def response(self) -> command.Command:
        """Return the next message's command set."""
        answer = await self.pdu()
        assert answer is not None
        kind, body = answer
        assert kind == 4, answer
        return command.decode(body[6:])

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        self._writer.transport.abort()


_OPEN: list[RawPeer] = []
