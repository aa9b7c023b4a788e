"""What a node takes in and is asked for comes into its warehouse, and can be counted whether the node runs or not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pydicom.uid import BasicTextSRStorage

from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import stow
from tests.flows.test_metrics import told

DUCKDB = ("warehouse.use=duckdb", "recorder.linger_s=0.1")
_ACCESSES = 'dicomnode_queue_lag_messages{group="recorder",topic="webapi_access_queue"}'
CANARY = "XCANARYX"


def counted(node: Running, by: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the counts once they are as they should be, or as they are in the end; by label."""
    until, told = time.monotonic() + 30, dict[str, Any]()
    while time.monotonic() < until:
        status, body = node.get(f"/api/v1/statistics?by={by}")
        assert status in (200, 503), body  # a warehouse may be opened later than the doors
        told = {row["label"]: row for row in json.loads(body)["rows"]} if status == 200 else {}
        if status == 200 and done(told):
            break
        time.sleep(0.1)
    return told


def reported(node: Running, *words: str) -> list[dict[str, Any]]:
    """Return what the command line tells."""
    port = urlsplit(node.url).port
    found = dicomnode("warehouse", "report", "--json", *words, *sets(node.data_dir, *DUCKDB, f"server.port={port}"))
    assert found.returncode == 0, found.stderr
    told: list[dict[str, Any]] = json.loads(found.stdout)
    return told


def test_what_was_received_and_asked_for_is_counted(start: Callable[..., Running]) -> None:
    node = start(*DUCKDB)
    ct, report = make(PatientName=f"{CANARY}^A"), make(SOPClassUID=BasicTextSRStorage, Modality="SR")
    for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated", "PhotometricInterpretation"):
        delattr(report, keyword)
    second = make(StudyInstanceUID=ct.StudyInstanceUID, SeriesInstanceUID=ct.SeriesInstanceUID)
    files = [part10(ds) for ds in (ct, second, report)]
    assert stow(node, *files)[0] == 200
    assert stow(node, files[0])[0] == 200  # received again: counted again
    assert len(node.json(f"/dicomweb/studies?PatientName={CANARY}*")) == 1
    modalities = counted(node, "modality", lambda told: {"CT", "SR"} == set(told))
    assert (modalities["CT"]["objects"], modalities["CT"]["studies"]) == (3, 1)
    assert (modalities["SR"]["objects"], modalities["SR"]["studies"]) == (1, 1)
    routes = counted(node, "route", lambda told: told.get("/dicomweb/studies", {"requests": 0})["requests"] == 3)
    assert routes["/dicomweb/studies"]["requests"] == 3
    assert routes["/api/v1/statistics"]["requests"] > 0
    _told_nowhere_else(node)

    while_running = reported(node, "--by", "modality", "--by", "transfer_syntax")
    assert [each["by"] for each in while_running] == ["modality", "transfer_syntax"]
    assert {row["label"]: row["objects"] for row in while_running[0]["rows"]} == {"CT": 3, "SR": 1}
    assert node.stop() == 0
    assert reported(node, "--by", "modality", "--by", "transfer_syntax") == while_running
    assert CANARY not in node.told()
    shown = dicomnode("warehouse", "report", *sets(node.data_dir, *DUCKDB))
    assert "modality\tCT\t1\t3\t" in shown.stdout


def _told_nowhere_else(node: Running) -> None:
    """Ask for a patient in every careless way, and look for it in the metrics."""
    node.get(f"/dicomweb/nothing/{CANARY}?{CANARY}={CANARY}")
    where = urlsplit(node.url)
    with socket.create_connection((where.hostname, where.port), 10) as raw:
        raw.sendall(f"GET /dicomweb/studies?PatientName={CANARY}".encode() + b"\xff HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 400 " in raw.recv(1000)
    assert CANARY.encode() not in node.get("/metrics", "*/*")[1]
    assert b'dicomnode_rows_recorded_total{table="wado_access_log"}' in node.get("/metrics", "*/*")[1]


def test_what_was_not_recorded_before_a_kill_is_recorded_after(start: Callable[..., Running]) -> None:
    node = start("warehouse.use=duckdb", "recorder.linger_s=300")
    objects = [make() for _ in range(20)]
    assert stow(node, *map(part10, objects))[0] == 200
    assert len(node.json("/dicomweb/studies")) == 20
    assert counted(node, "day", lambda told: not told) == {}
    lag = b'dicomnode_queue_lag_messages{group="recorder",topic="log_queue"} 20.0'
    assert lag in node.get("/metrics", "*/*")[1]
    until = time.monotonic() + 30
    while told(node, _ACCESSES) < 3 and time.monotonic() < until:
        time.sleep(0.1)  # what was answered in the last moments before a kill is in no log
    node.kill()
    again = start(*DUCKDB, data_dir=node.data_dir)
    modalities = counted(again, "modality", lambda told: told.get("CT", {"objects": 0})["objects"] == 20)
    assert modalities["CT"]["objects"] == 20
    routes = counted(again, "route", lambda told: "/dicomweb/studies" in told)
    assert routes["/dicomweb/studies"]["requests"] >= 2
    assert again.stop() == 0


def test_an_import_without_a_node_is_recorded_too(start: Callable[..., Running], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("offline")
    (folder / "one.dcm").write_bytes(part10(make(Modality="MR")))
    chosen = sets(folder / "data", *DUCKDB)
    assert dicomnode("import", str(folder / "one.dcm"), *chosen).returncode == 0
    found = dicomnode("warehouse", "report", "--by", "modality", "--json", *chosen)
    assert [row["label"] for row in json.loads(found.stdout)[0]["rows"]] == ["MR"], found.stderr


def test_a_node_without_a_warehouse_or_with_the_log_switched_off(start: Callable[..., Running]) -> None:
    node = start("warehouse.use=off")
    assert stow(node, part10(make()))[0] == 200
    assert node.get("/api/v1/statistics")[0] == 404
    assert b'group="recorder"' not in node.get("/metrics", "*/*")[1]
    assert node.stop() == 0
    silent = start(*DUCKDB, "server.access_log=false", data_dir=node.data_dir.parent / "silent")
    assert stow(silent, part10(make()))[0] == 200
    counted(silent, "modality", lambda told: "CT" in told)
    assert silent.json("/api/v1/statistics?by=route")["rows"] == []
