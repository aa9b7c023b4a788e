from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.running import Running, sets, start_node
from tests.interop.places import Place, free_port


@pytest.fixture(scope="module")
def destinations() -> dict[str, Place]:
    """Where programs will be that the node knows of, by AE title."""
    return {aet: Place(aet, free_port()) for aet in ("STORESCP", "GDCM", "ORTHANC", "DCMJS")}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, destinations: dict[str, Place]) -> Iterator[Running]:
    """One node for all tests of a file: what one sends has identities that no other has."""
    folder = tmp_path_factory.mktemp("node")
    peers = [f"peers.{aet.lower()}={place.peer}" for aet, place in destinations.items()]
    running = start_node(folder / "data", folder / "log", *sets(folder / "data", *peers))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def place(node: Running) -> Place:
    return Place("DICOMNODE", node.scp[1])
