from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from dicomnode.config import ServerTable
from tests.rooms import Rooms, open_door, open_rooms


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path) as rooms:
        yield rooms


@pytest.fixture
def table() -> ServerTable:
    return ServerTable(port=0)


@pytest.fixture
async def web(rooms: Rooms, table: ServerTable) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose paths begin at the door."""
    async with open_door(rooms, table) as server, aiohttp.ClientSession(server.address) as session:
        yield session
