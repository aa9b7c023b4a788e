"""What Prometheus is told by a running node of what it did."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow


def told(node: Running, name: str) -> float:
    """Return the value of one line of /metrics, -1 where it is not there."""
    status, text = node.get("/metrics", "*/*")
    assert status == 200
    found = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
    return float(found[1]) if found else -1.0


def test_services_are_measured_and_queues_told(node: Running) -> None:
    assert told(node, 'dicomnode_queue_lag_messages{group="consumer",topic="storage_queue"}') == 0.0
    ds = make()
    assert stow(node, part10(ds))[0] == 200
    (study,) = node.json("/dicomweb/studies")
    assert study["0020000D"]["Value"] == [ds.StudyInstanceUID]
    assert node.get(f"/dicomweb/studies/{ds.StudyInstanceUID}/metadata")[0] == 200
    assert node.get(f"/dicomweb/studies/{ds.StudyInstanceUID}", 'multipart/related; type="application/dicom"')[0] == 200
    assert node.get("/dicomweb/studies/1.2.3")[0] == 404
    for service, count in (("ingest", 1), ("index", 1), ("find", 1), ("describe", 1), ("retrieve", 2)):
        assert told(node, f'dicomnode_handler_seconds_count{{service="{service}"}}') == count, service
    assert told(node, 'dicomnode_handler_failures_total{error="NotFound",service="retrieve"}') == 1.0
    assert told(node, 'dicomnode_queue_lag_messages{group="operator",topic="storage_queue.dead"}') == 0.0


def test_what_waits_for_the_index_is_told(start: Callable[..., Running]) -> None:
    node = start("consumer.linger_s=30.0")
    lag = 'dicomnode_queue_lag_messages{group="consumer",topic="storage_queue"}'
    age = 'dicomnode_queue_oldest_seconds{group="consumer",topic="storage_queue"}'
    assert [stow(node, part10(make()))[0] for _ in range(3)] == [200, 200, 200]
    assert told(node, lag) == 3.0
    first = told(node, age)
    assert first > 0.0
    until = time.monotonic() + 20
    while told(node, age) <= first and time.monotonic() < until:
        time.sleep(0.05)
    assert told(node, age) > first
    assert len(node.json("/dicomweb/studies")) > 0  # a query has the index made at once
    assert told(node, lag) == 0.0


def test_a_node_that_works_on_nothing_tells_of_no_queue(start: Callable[..., Running]) -> None:
    node = start(roles=("server", "storescp"))
    assert told(node, 'dicomnode_queue_lag_messages{group="consumer",topic="storage_queue"}') == -1.0
