from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.running import Running, sets, start_node


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts a node and waits until it is ready; all are killed at the end."""
    running: list[Running] = []

    def starting(*more: str, data_dir: Path | None = None, roles: tuple[str, ...] = ()) -> Running:
        folder = data_dir or tmp_path / "data"
        words = [word for role in roles for word in ("--role", role)]
        node = start_node(folder, tmp_path / f"log-{len(running)}", *sets(folder, *more), *words)
        running.append(node)
        return node

    yield starting
    for node in running:
        if node.process.poll() is None:
            node.kill()


@pytest.fixture
def node(start: Callable[..., Running]) -> Running:
    return start()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One node for all tests of a file that do not mind what the others have sent: starting one takes a second."""
    folder = tmp_path_factory.mktemp("shared")
    node = start_node(folder / "data", folder / "log", *sets(folder / "data"))
    yield node
    node.kill()
