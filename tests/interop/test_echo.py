"""C-ECHO: every program asks the node. That the node asks them is in test_send."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.flows.running import Running
from tests.interop.orthanc import orthanc
from tests.interop.places import Place
from tests.interop.reading import associations
from tests.interop.senders import SENDERS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=one.marks) for name, one in SENDERS.items() if one.echo is not None]
)
def test_a_program_asks_the_node(name: str, node: Running, place: Place) -> None:
    echo = SENDERS[name].echo
    assert echo is not None
    before = associations(node)
    told = echo(place)
    assert told.well, told.words
    _is_released(node, before)


@pytest.mark.external("Orthanc")
def test_orthanc_asks_the_node(node: Running, place: Place, tmp_path: Path) -> None:
    with orthanc(tmp_path) as running:
        running.knows("node", place)
        before = associations(node)
        running.ask("/modalities/node/echo", {})
        _is_released(node, before)


def _is_released(node: Running, before: dict[str, int]) -> None:
    """Wait for one proper release more and nothing else: no program was left waiting and hung up."""
    after = before | {"released": before.get("released", 0) + 1}
    deadline = time.monotonic() + 20
    while associations(node) != after and time.monotonic() < deadline:
        time.sleep(0.05)
    assert associations(node) == after
