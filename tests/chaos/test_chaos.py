"""A flow of objects while one thing after another is taken away: nothing that was acknowledged is lost.

A short run over the embedded plugins belongs to all tests. The long ones run with `make test-chaos`: what
DICOMNODE_CHAOS_SEED draws, with DICOMNODE_CHAOS_OBJECTS objects at least; DICOMNODE_CHAOS_FAULTS says how many,
DICOMNODE_CHAOS_ONLY is a pattern that their names fit.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from dicomnode_postgres import migrating
from tests.chaos import verify
from tests.chaos.cluster import EMBEDDED, FAKETIME, KAFKA, RABBITMQ, Cluster, Layout, running, small_disk
from tests.chaos.faults import Fault, drawn, faults, tap, with_broker
from tests.chaos.ledger import Ledger, Sender

_SEED = int(os.environ.get("DICOMNODE_CHAOS_SEED", "1"))
_OBJECTS = int(os.environ.get("DICOMNODE_CHAOS_OBJECTS", "2000"))
_ONLY = os.environ.get("DICOMNODE_CHAOS_ONLY", "")
_BETWEEN = 10  # objects that are acknowledged between two faults, at least
_GRACE_S = 35.0  # what was away is asked again after a while only

long = pytest.mark.skipif(
    not os.environ.get("DICOMNODE_CHAOS"), reason="long chaos was not tested (make test-chaos does)"
)


def _wait_for(ledger: Ledger, count: int, cluster: Cluster, patience_s: float = 240.0) -> None:
    ends = time.monotonic() + patience_s
    while len(ledger) < count:
        cluster.revive()
        assert time.monotonic() < ends, f"nobody is taken any more ({ledger.lost})\n{cluster.told()}"
        time.sleep(0.05)


def _run(cluster: Cluster, chosen: list[Fault], objects: int, *, thorough: bool) -> dict[str, object]:
    ledger, spans, told = Ledger(), list[tuple[float, float]](), list[str]()
    took: dict[str, float] = {}
    senders = [Sender(cluster.scp, ledger, _SEED + number, pace_s=0.01) for number in range(2)]
    for sender in senders:
        sender.start()
    _wait_for(ledger, _BETWEEN, cluster)
    for fault in chosen:
        began = time.monotonic()
        fault.happen()
        if ended := cluster.revive():
            told.append(f"{fault.name}: {', '.join(ended)} ended")
        if fault.refuses:
            spans.append((began, time.monotonic() + _GRACE_S))
        _wait_for(ledger, len(ledger) + _BETWEEN, cluster)
        if thorough:
            verify.wait_indexed(cluster, ledger)
        took[fault.name] = round(time.monotonic() - began, 1)
    _wait_for(ledger, objects, cluster, 600.0)
    for sender in senders:
        sender.stop()
    verify.wait_indexed(cluster, ledger)
    acknowledged = list(ledger.acknowledged().values())
    verify.check_readable(cluster, acknowledged if thorough else random.Random(_SEED).sample(acknowledged, 25))
    verify.check_honest(ledger, spans)
    if not cluster.layout.is_apart:
        cluster.stop()
    return verify.summary(ledger, verify.check_once(cluster, ledger)) | {"ended by themselves": told, "took": took}


@pytest.mark.timeout(600)
def test_a_short_run_over_the_embedded_plugins(tmp_path: Path) -> None:
    with running(EMBEDDED, tmp_path) as cluster:
        named = {fault.name: fault for fault in faults(cluster)}
        with_broker(cluster, tap)
        chosen = [named[name] for name in ("kill node", "poison", "everything again", "hang node")]
        told = _run(cluster, chosen + ([named["clock back"]] if FAKETIME else []), 100, thorough=False)
    assert told["acknowledged"] >= 100, told  # type: ignore[operator]


@long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", [EMBEDDED, RABBITMQ, KAFKA], ids=lambda layout: layout.name)
def test_a_long_run(layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 768)) if not layout.is_apart else None
        cluster = stack.enter_context(running(layout, disk or tmp_path))
        possible = [fault for fault in faults(cluster, disk) if FAKETIME or "clock" not in fault.name]
        possible = [fault for fault in possible if re.search(_ONLY, fault.name)]
        with_broker(cluster, tap)
        # RabbitMQ 3.10, killed within two seconds of making a quorum queue, has that one dead for good: it elects no
        # leader any more, also after other restarts, and confirms nothing.
        time.sleep(5.0)
        chosen = drawn(possible, _SEED, int(os.environ.get("DICOMNODE_CHAOS_FAULTS") or len(possible)))
        told = _run(cluster, chosen, _OBJECTS, thorough=True)
    with capsys.disabled():
        sys.stdout.write(f"\n{layout.name}, seed {_SEED}: {json.dumps(told)}\n")
    assert told["acknowledged"] >= _OBJECTS  # type: ignore[operator]


@long
@pytest.mark.timeout(1800)
def test_a_rolling_upgrade_over_two_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = _newer_schema(tmp_path / "packages")
    (tmp_path / "cluster").mkdir()
    with running(RABBITMQ, tmp_path / "cluster") as cluster:
        ledger = Ledger()
        sender = Sender(cluster.scp, ledger, _SEED)
        sender.start()
        _wait_for(ledger, _BETWEEN, cluster)
        for process in cluster.processes.values():  # the older ones work beside the newer
            assert process.stop() == 0, process.told()
            process.install(newer)
            process.begin()
            process.wait_ready()
            _wait_for(ledger, len(ledger) + _BETWEEN, cluster)
        sender.stop()
        verify.wait_indexed(cluster, ledger)
        verify.check_readable(cluster, list(ledger.acknowledged().values()))
        verify.check_honest(ledger, ())
        older = cluster.command("fsck")
        assert older.returncode == 2
        assert "this program knows 1" in older.stderr
        cluster.install(newer)
        known = migrating.migrations()
        known.append(msgspec.structs.replace(known[-1], number=2, name=_STEP, sql=_SQL))
        monkeypatch.setattr(migrating, "migrations", lambda: known)  # so that these tests may look too
        held = verify.check_once(cluster, ledger)
    assert held.indexed


_STEP, _SQL = "0002_of_the_future", "ALTER TABLE instance ADD COLUMN of_the_future boolean NOT NULL DEFAULT false;\n"


def _newer_schema(packages: Path) -> Path:
    """Return where the plugin postgres is of a version whose schema has a step more."""
    folder = packages / "dicomnode_postgres"
    shutil.copytree(Path(migrating.__file__).parent, folder)
    (folder / "migrations" / f"{_STEP}.sql").write_text(_SQL)
    return packages
