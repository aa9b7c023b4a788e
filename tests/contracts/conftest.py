"""Every contract test runs over every installed plugin of its port, also those of strangers.

A plugin that cannot run on its default options gets them, as JSON, from DICOMNODE_TEST_<PORT>_<NAME>, or from the
server that tests/backends/<name>.py starts; one that cannot be imported or has no server here is skipped, and the
report says so.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dicomnode import plug
from dicomnode.config import PluginTable
from dicomnode.errors import ConfigError, Unavailable
from dicomnode.ports.broker import Broker
from dicomnode.ports.cache import Cache
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage
from dicomnode.ports.warehouse import Warehouse
from tests.backends import started

PORTS: dict[str, type[Any]] = {
    "storage": Storage,
    "broker": Broker,
    "database": Database,
    "cache": Cache,
    "warehouse": Warehouse,
}

# What promises nothing has nothing to be held to.
KEEPS_NOTHING = {("warehouse", "off")}


def make(port: str, name: str, data_dir: Path) -> Any:
    """Return the plugin `name` of `port`, not yet entered."""
    told = os.environ.get(f"DICOMNODE_TEST_{port}_{name}".upper())
    options = msgspec.json.decode(told) if told else started.options(port, name)
    return plug.make(port, PORTS[port], PluginTable(name, options), data_dir)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for port in PORTS:
        names = [point.name for point in plug.installed(port) if (port, point.name) not in KEEPS_NOTHING]
        if port in metafunc.fixturenames:
            metafunc.parametrize(port, names, indirect=True)
        if f"{port}_name" in metafunc.fixturenames:
            metafunc.parametrize(f"{port}_name", names)


async def _opened(port: str, request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Any]:
    try:
        plugin = make(port, request.param, data_dir)
        await plugin.__aenter__()
    except (ConfigError, Unavailable) as error:
        pytest.skip(f"the {port} plugin {request.param} was not tested: {error}")
    try:
        yield plugin
    finally:
        await plugin.__aexit__(None, None, None)


@pytest.fixture
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    async for plugin in _opened("storage", request, tmp_path):
        yield plugin


@pytest.fixture
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    async for plugin in _opened("broker", request, tmp_path):
        yield plugin


@pytest.fixture
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async for plugin in _opened("database", request, tmp_path):
        yield plugin


@pytest.fixture
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cache]:
    async for plugin in _opened("cache", request, tmp_path):
        yield plugin


@pytest.fixture
async def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Warehouse]:
    async for plugin in _opened("warehouse", request, tmp_path):
        yield plugin
