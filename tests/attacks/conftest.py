from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.conftest import node, shared, start
from tests.flows.running import Running, sets, start_node

__all__ = ["hasty", "node", "shared", "start"]

HASTY = {"artim_s": 1.0, "idle_s": 2.0, "message_s": 3.0, "drain_s": 1.0, "associations": 20}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node with little patience, for all tests of a file."""
    folder = tmp_path_factory.mktemp("hasty")
    short = [f"storescp.limits.{name}={value}" for name, value in HASTY.items()]
    node = start_node(folder / "data", folder / "log", *sets(folder / "data", *short))
    yield node
    node.kill()
