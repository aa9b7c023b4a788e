"""What a node must come through an attack with: bounded memory, a process that lives, and service for the next peer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode.dimse import pdu
from tests.attacks.peer import Peer
from tests.corpus import make
from tests.flows.running import Running

MIB = 1024 * 1024


@contextmanager
def survives(node: Running, mib: int = 48) -> Iterator[None]:
    """Check that what happens within costs the node at most `mib` MiB of RSS, at any moment, and that it serves on."""
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")
    before = memory(node, "VmRSS")
    yield
    serves(node)
    grown = memory(node, "VmHWM") - before
    assert grown < mib * MIB, f"{grown / MIB:.1f} MiB more at the peak"


def serves(node: Running) -> None:
    """Check that the next association is accepted, and an object stored and found."""
    assert node.process.poll() is None, node.told()[-2000:]
    ds = make()
    with Peer(node) as peer:
        assert peer.associate() == pdu.ASSOCIATE_AC
        assert peer.echo() == 0
        assert peer.store_object(ds) == 0
        peer.release()
    (row,) = node.json(f"/dicomweb/instances?SOPInstanceUID={ds.SOPInstanceUID}")
    assert row["0020000D"]["Value"] == [ds.StudyInstanceUID]


def memory(node: Running, name: str) -> int:
    """Return `VmRSS` or `VmHWM` of the node, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{node.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def files(node: Running) -> int:
    """Return how many file descriptors the node has open."""
    return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))


def metric(node: Running, name: str) -> float:
    """Return the value of one line of /metrics, 0 where it is not there yet."""
    status, text = node.get("/metrics", "*/*")
    assert status == 200
    found = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def indexed(node: Running) -> float:
    """Return how many objects the node has indexed since its start, duplicates included."""
    _, text = node.get("/metrics", "*/*")
    return sum(map(float, re.findall(r"^dicomnode_instances_indexed_total{.*} (\S+)$", text.decode(), re.MULTILINE)))


def ended(node: Running, outcome: str) -> float:
    """Return how many associations ended in this way."""
    return metric(node, f'dicomnode_associations_total{{outcome="{outcome}"}}')


def until(holds: Callable[[], bool], what: str, most_s: float = 20) -> None:
    """Wait until `holds`."""
    late = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < late, what
        time.sleep(0.02)
