"""Starting says clearly what is in the way; stopping finishes what is under way."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, stow


def test_ready_names_every_door(node: Running) -> None:
    assert node.addresses["storescp"].startswith("DICOMNODE@127.0.0.1:")
    assert node.addresses["server"].startswith("http://127.0.0.1:")
    status, body = node.get("/readyz")
    assert status == 200
    assert set(json.loads(body)["backends"]) == {"storage", "broker", "database", "cache", "warehouse"}


def test_sigterm_ends_with_0_and_keeps_what_was_received(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start()
    assert stow(node, part10(make()))[0] == 200
    assert node.stop() == 0
    again = start()
    assert len(instances(again)) == 1


def test_a_port_in_use_is_told(start: Callable[..., Running], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for door in ("storescp", "server"):
            told = dicomnode("run", *sets(tmp_path / door), "--set", f"{door}.port={port}")
            assert told.returncode == 2
            assert f"{door}.port" in told.stderr
            assert "in use" in told.stderr
            assert "Traceback" not in told.stderr


def test_a_second_process_on_the_folder_is_told_who_has_it(node: Running) -> None:
    told = dicomnode("run", *sets(node.data_dir))
    assert told.returncode == 2
    assert f"in use by process {node.process.pid}" in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1


def test_a_data_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    told = dicomnode("run", *sets(tmp_path / "file" / "data"))
    assert told.returncode == 2
    assert "node.data_dir" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("name", ["index.sqlite", "broker.sqlite"])
def test_a_damaged_database_file_is_told(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(b"this is not SQLite " * 500)
    told = dicomnode("run", *sets(folder))
    assert told.returncode in (1, 2)
    assert name in told.stderr
    assert "Traceback" not in told.stderr


def test_a_typo_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    told = dicomnode("run", *sets(tmp_path / "data", "server.prot=1"))
    assert told.returncode == 2
    assert "server.prot: there is no such key (did you mean port?)" in told.stderr
    assert not (tmp_path / "data").exists()


def test_an_association_under_way_is_finished_before_the_end(node: Running) -> None:
    """A request that has been sent is answered, although the node was told to stop meanwhile."""
    files = [part10(make(InstanceNumber=n)) for n in range(50)]
    replies: list[int] = []
    senders = [threading.Thread(target=lambda: replies.append(stow(node, *files)[0])) for _ in range(4)]
    for sender in senders:
        sender.start()
    threading.Event().wait(0.05)
    assert node.stop() == 0
    for sender in senders:
        sender.join()
    assert replies.count(200) == 4
