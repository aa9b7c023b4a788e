"""What a process says of itself from its first moment on, and how its web door takes over."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dicomnode.config import AuthTable, HealthTable, ServerTable
from dicomnode.errors import ConfigError, Unavailable
from dicomnode.ports.coming import ComingBroker
from dicomnode.roles.server.entrance import Entrance
from dicomnode.roles.server.listening import Listening
from dicomnode.roles.server.readiness import Answering
from dicomnode.roles.server.role import Server
from tests.rooms import open_rooms


class Backend:
    def __init__(self, problem: str = "") -> None:
        self.problem = problem

    async def ping(self) -> None:
        if self.problem:
            raise Unavailable("acme", self.problem)


async def ask(url: str, path: str, token: str = "") -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of one request on a connection of its own."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    more = f"Authorization: Bearer {token}\r\n" if token else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def entrance(
    backends: Mapping[str, Answering] | None = None, health: HealthTable | None = None, **server: Any
) -> Entrance:
    return Entrance(health or HealthTable(), ServerTable(port=0, **server), "default", backends or {})


async def test_while_a_backend_is_away_it_is_named_and_all_else_is_told_to_come_again() -> None:
    async with entrance({"storage": Backend(), "database": Backend("nobody there")}) as door:
        assert door.web is not None
        assert (await ask(door.web.address, "/livez"))[0] == 200
        status, headers, body = await ask(door.web.address, "/readyz")
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(body) == {
            "status": "not ready",
            "backends": {
                "storage": {"up": True, "problem": ""},
                "database": {"up": False, "problem": "acme: nobody there"},
            },
        }
        for path in ("/", "/dicomweb/studies", "/metrics"):
            status, headers, body = await ask(door.web.address, path)
            assert (status, headers["retry-after"]) == (503, "5")
            assert headers["content-type"].startswith("application/problem+json")
            assert json.loads(body)["detail"] == "the node is starting"


async def test_it_is_not_ready_before_its_doors_are_open_though_all_answer() -> None:
    async with entrance({"storage": Backend()}) as door:
        assert door.web is not None
        assert (await ask(door.web.address, "/readyz"))[0] == 503


async def test_a_stranger_is_told_no_more_than_later() -> None:
    async with entrance({"database": Backend("at db.example.org")}, auth=AuthTable(("s3cret",))) as door:
        assert door.web is not None
        assert (await ask(door.web.address, "/livez"))[0] == 200
        status, _, body = await ask(door.web.address, "/readyz")
        assert (status, b"example.org" in body) == (401, False)
        assert (await ask(door.web.address, "/dicomweb/studies"))[0] == 401
        assert (await ask(door.web.address, "/readyz", "s3cret"))[0] == 503


async def test_the_web_door_takes_over_without_a_refusal(tmp_path: Path) -> None:
    """Whoever connects is answered at every moment, by the one or the other."""
    statuses: list[int] = []
    stop = asyncio.Event()

    async def knock(url: str) -> None:
        while not stop.is_set():
            statuses.append((await ask(url, "/readyz"))[0])

    async with open_rooms(tmp_path) as rooms, entrance({"storage": Backend()}) as door:
        assert door.web is not None
        address = door.web.address
        knocking = [asyncio.create_task(knock(address)) for _ in range(8)]
        await asyncio.sleep(0.1)
        server = Server(
            ServerTable(port=0),
            "default",
            ingest=rooms.ingest,
            find=rooms.find,
            retrieve=rooms.retrieve,
            describe=rooms.describe,
            worklist=rooms.worklist,
            performed=rooms.performed,
            measure=rooms.measure,
            backends=rooms.backends(),
            listening=door.web,
        )
        async with server:
            assert server.address == address
            door.started()
            last = len(statuses)
            assert (await ask(address, "/readyz"))[0] == 200, "whoever comes now"
            await door.part()
            await asyncio.sleep(0.1)
            stop.set()
            await asyncio.gather(*knocking)  # no error: nobody was refused or cut off
    assert set(statuses) == {200, 503}
    assert set(statuses[last + len(knocking) :]) == {200}


async def test_who_was_connected_before_is_still_answered() -> None:
    async with entrance() as door:
        assert door.web is not None
        host, _, port = door.web.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await asyncio.sleep(0.05)
        door.started()
        leaving = asyncio.create_task(door.part())
        await asyncio.sleep(0.05)
        writer.write(b"GET /dicomweb/studies HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 503")
        writer.close()
        await asyncio.wait_for(leaving, 1)


async def test_the_health_door_tells_from_start_to_end() -> None:
    measured = 0

    async def measure() -> None:
        nonlocal measured
        measured += 1

    door = Entrance(HealthTable(port=0), None, "default", {"broker": Backend()})
    async with door:
        assert door.web is None
        assert door.health is not None
        url = door.health.address
        assert (await ask(url, "/livez"))[0] == 200
        assert (await ask(url, "/readyz"))[0] == 503
        door.started()
        door.measured = measure
        assert (await ask(url, "/readyz"))[0] == 200
        door.backends = {"broker": Backend("gone")}
        assert (await ask(url, "/readyz"))[0] == 503
        status, headers, body = await ask(url, "/metrics")
        assert (status, measured) == (200, 1)
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b'dicomnode_backend_up{port="broker"} 0.0' in body
        assert (await ask(url, "/"))[0] == 404
    with pytest.raises(OSError, match=r"refused|failed"):
        await ask(url, "/livez")


async def test_what_work_goes_on_without_does_not_make_it_unready() -> None:
    def away() -> Any:
        raise Unavailable("kafka", "nobody there")

    door = Entrance(HealthTable(port=0), None, "default", {"outbox": Backend(), "broker": ComingBroker(away)})
    async with door:
        door.started()
        assert door.health is not None
        status, _, body = await ask(door.health.address, "/readyz")
        assert (status, json.loads(body)["status"]) == (200, "degraded")
        assert json.loads(body)["backends"]["broker"]["problem"] == "kafka: nobody there"


async def test_an_address_that_is_shared_is_left_to_those_who_are_ready() -> None:
    async with entrance(reuse_port=True) as door:
        assert door.web is not None
        with pytest.raises(OSError, match=r"refused|failed"):
            await ask(door.web.address, "/livez")
        port = int(door.web.address.rpartition(":")[2])
        other = Listening("server", "127.0.0.1", port, reuse_port=True)
        await other.serve(asyncio.Protocol)
        other.close()


async def test_an_address_that_cannot_be_had_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"server\.port: {port} is in use .*server\.reuse_port = true"):
            await Listening("server", "127.0.0.1", port).bind()
        with pytest.raises(ConfigError, match=rf"health\.port: {port} is in use"):
            async with entrance(health=HealthTable(port=port)):
                pass
    with pytest.raises(ConfigError, match=r"server\.host: 192\.0\.2\.1 cannot be bound"):
        await Listening("server", "192.0.2.1", 0).bind()
