"""Row 6 and the issue's soak: 10,000 probes and 5,000 associations leave memory, files and tasks where they were."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import uvloop

from dicomnode.dimse import pdu
from tests.attacks.peer import CONTEXTS
from tests.attacks.watch import MIB, ended, files, memory, metric, serves, until
from tests.dimse.requests import echo, request
from tests.flows.running import Running

PROBES = 10_000
ASSOCIATIONS = 5_000
AT_ONCE = 16
REQUEST = request(CONTEXTS)
RST = struct.pack("ii", 1, 0)


async def _connected(node: Running, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # From many addresses, so that the ports of none run out.
    return await asyncio.open_connection(*node.scp, local_addr=(f"127.0.2.{1 + number % 100}", 0))


async def _probe(node: Running, number: int) -> None:
    reader, writer = await _connected(node, number)
    if number % 3 == 0:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
    elif number % 3 == 1:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    writer.transport.abort()


async def _pdu(reader: asyncio.StreamReader) -> int:
    head = await reader.readexactly(6)
    await reader.readexactly(int.from_bytes(head[2:], "big"))
    return head[0]


async def _association(node: Running, number: int) -> None:
    reader, writer = await _connected(node, number)
    writer.write(REQUEST)
    assert await _pdu(reader) == pdu.ASSOCIATE_AC
    writer.write(echo())
    assert await _pdu(reader) == pdu.P_DATA_TF
    if number % 5 == 0:
        writer.write(pdu.abort(by_provider=False))
    elif number % 5 != 1:
        writer.write(pdu.release_rq())
        assert await _pdu(reader) == pdu.RELEASE_RP
    writer.transport.abort()


def _run(node: Running, work: Callable[[Running, int], Awaitable[None]], times: int) -> None:
    async def some(numbers: range) -> None:
        for number in numbers:
            await work(node, number)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for start in range(AT_ONCE):
                group.create_task(some(range(start, times, AT_ONCE)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_them())


def _tasks(node: Running) -> float:
    return metric(node, "dicomnode_asyncio_tasks_count")


@pytest.mark.timeout(120)
def test_probes_and_associations_leave_nothing_behind(node: Running) -> None:
    for work in (_probe, _association):
        _run(node, work, 1000)  # what is made once is made
    serves(node)
    until(lambda: metric(node, "dicomnode_associations_open_count") == 0, "the first have gone")
    rss, open_files, tasks = memory(node, "VmRSS"), files(node), _tasks(node)
    assert tasks > 0
    endings = {name: ended(node, name) for name in ("refused_garbage", "released", "aborted", "lost")}

    _run(node, _probe, PROBES)
    _run(node, _association, ASSOCIATIONS)

    counted = {"refused_garbage": PROBES, "released": 3000, "aborted": 1000, "lost": 1000}
    for name, times in counted.items():
        until(lambda name=name, times=times: ended(node, name) == endings[name] + times, name)  # type: ignore[misc]
    until(lambda: files(node) <= open_files, f"{files(node)} files open, {open_files} before")
    until(lambda: _tasks(node) <= tasks, f"{_tasks(node)} tasks, {tasks} before")
    serves(node)
    # 8 MiB over 15,000 connections: half a kilobyte each would be seen.
    assert memory(node, "VmRSS") - rss < 8 * MIB
    assert '"error"' not in node.told()
