"""Roles in processes of their own, over a broker elsewhere: nothing that was acknowledged is lost on the way."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydicom.uid import generate_uid

from tests.backends import started
from tests.backends.postgres import free_port
from tests.backends.proxy import Proxy, before
from tests.corpus import data_set_of, make, part10
from tests.flows.cluster import Cluster, asked, measured, until
from tests.flows.running import Running, dicomnode
from tests.flows.send import instances, retrieved, storescu, stow

pytestmark = [pytest.mark.external("storescu"), pytest.mark.timeout(180)]

RELAYED = 'dicomnode_queue_lag_messages{group="relay",topic="storage_queue"}'


@pytest.fixture
def over(tmp_path: Path) -> Iterator[Callable[[str], Cluster]]:
    """Return a function that makes a cluster over the broker of this name."""
    clusters: list[Cluster] = []

    def making(broker: str) -> Cluster:
        options = started.options("broker", broker)
        clusters.append(Cluster(tmp_path, (broker, options), started.options("database", "postgres")))
        return clusters[-1]

    yield making
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cut_off(tmp_path: Path) -> Iterator[tuple[Cluster, Proxy]]:
    """A cluster over RabbitMQ, and what stands between them."""
    options = started.options("broker", "rabbitmq")
    place = urlsplit(str(options["url"]))
    with before(place.hostname or "", place.port or 0) as proxy:
        options["url"] = proxy.url(str(options["url"]))
        cluster = Cluster(tmp_path, ("rabbitmq", options), started.options("database", "postgres"))
        yield cluster, proxy
        cluster.close()


def written(folder: Path, count: int) -> dict[str, bytes]:
    """Write files of one study; return their data sets by SOP Instance UID."""
    folder.mkdir()
    study, made = generate_uid(), dict[str, bytes]()
    for number in range(count):
        ds = make(StudyInstanceUID=study, InstanceNumber=number)
        file = part10(ds)
        (folder / f"{number:04}.dcm").write_bytes(file)
        made[ds.SOPInstanceUID] = data_set_of(file)
    return made


def found(server: Running) -> dict[str, tuple[str, str]]:
    """Return study and series of every instance that the web door finds."""
    return {
        row["00080018"]["Value"][0]: (row["0020000D"]["Value"][0], row["0020000E"]["Value"][0])
        for row in instances(server)
    }


def test_two_of_each_share_the_ports_and_the_work(over: Callable[[str], Cluster], tmp_path: Path) -> None:
    cluster, ports = over("kafka"), (free_port(), free_port())
    shared = [f"storescp.port={ports[0]}", f"server.port={ports[1]}"]
    shared += ["storescp.reuse_port=true", "server.reuse_port=true", f"performed.folder={tmp_path / 'performed'}"]
    doors = [cluster.start(f"door{number}", "storescp server", *shared) for number in range(2)]
    consumer = cluster.start("consumer", "consumer")
    sent = dict[str, bytes]()

    def both_received() -> bool:
        return all(measured(door, "dicomnode_instances_stored_total") > 0 for door in doors)

    for number in range(40):  # the kernel throws a coin for each association
        sent |= written(tmp_path / str(number), 5)
        assert storescu(doors[0], tmp_path / str(number)).returncode == 0
        if both_received():
            break
    until(lambda: len(found(doors[0])) == len(sent))
    for uid, (study, series) in found(doors[1]).items():
        assert data_set_of(retrieved(doors[1], study, series, uid)) == sent[uid]
    assert both_received()
    assert measured(consumer, "dicomnode_instances_indexed_total") == len(sent)
    assert all(asked(each, "/readyz")[0] == 200 for each in (*doors, consumer))
    assert set(json.loads(asked(doors[0], "/readyz")[1])["backends"]) == {
        *("storage", "database", "cache", "broker", "outbox", "warehouse")
    }
    assert set(json.loads(asked(consumer, "/readyz")[1])["backends"]) == {"storage", "database", "broker"}
    assert [each.stop() for each in (*doors, consumer)] == [0, 0, 0]


def test_a_broker_that_is_away_refuses_no_modality_and_a_kill_loses_nothing(
    cut_off: tuple[Cluster, Proxy], tmp_path: Path
) -> None:
    cluster, proxy = cut_off
    scp = cluster.start("scp", "storescp")
    first = written(tmp_path / "first", 40)
    proxy.cut()
    assert storescu(scp, tmp_path / "first").returncode == 0, "the broker is away, the log is here"
    until(lambda: json.loads(asked(scp, "/readyz")[1])["status"] == "degraded")
    assert asked(scp, "/readyz")[0] == 200, "it receives, so it is ready"
    until(lambda: measured(scp, RELAYED) == len(first))
    assert measured(scp, "dicomnode_queue_oldest_seconds{") > 0
    scp.kill()
    scp = cluster.start("scp", "storescp")  # the broker is away still
    second = written(tmp_path / "second", 10)
    assert storescu(scp, tmp_path / "second").returncode == 0
    status, told = asked(scp, "/readyz")
    assert (status, json.loads(told)["backends"]["broker"]["up"]) == (200, False)
    proxy.forward()
    consumer = cluster.start("consumer", "consumer server")
    sent = first | second
    until(lambda: found(consumer).keys() == sent.keys())
    for uid, (study, series) in found(consumer).items():
        assert data_set_of(retrieved(consumer, study, series, uid)) == sent[uid]
    assert measured(scp, RELAYED) == 0
    assert scp.stop() == 0
    assert "object.dropped" not in scp.told()


def test_kills_while_sending_lose_nothing_acknowledged(cut_off: tuple[Cluster, Proxy], tmp_path: Path) -> None:
    cluster, proxy = cut_off
    files = written(tmp_path / "send", 150)
    acknowledged = 0
    for number in range(2):
        scp = cluster.start("scp", "storescp")
        if number == 1:
            proxy.cut()
        threading.Timer(0.2 + 0.1 * number, scp.kill).start()
        sent = storescu(scp, tmp_path / "send", options=["-v"])
        acknowledged = max(acknowledged, (sent.stdout + sent.stderr).count("Received Store Response (Success)"))
        scp.process.wait(20)
    proxy.forward()
    everything = cluster.start("scp", "storescp server consumer")
    # They were sent in the order of their names, so these are the first ones.
    names = [file.name for file in sorted((tmp_path / "send").iterdir())][:acknowledged]
    assert names
    until(lambda: measured(everything, RELAYED) == 0 and len(found(everything)) >= acknowledged)
    for uid, (study, series) in found(everything).items():
        assert data_set_of(retrieved(everything, study, series, uid)) == files[uid]
    assert everything.stop() == 0
    checked = dicomnode("fsck", "--digests", "--json", *cluster.words("scp"))
    told = json.loads(checked.stdout)
    assert (told["missing"], told["damaged"]) == ([], []), told


def test_a_full_log_is_told_honestly_and_empties_when_the_broker_is_back(
    cut_off: tuple[Cluster, Proxy], tmp_path: Path
) -> None:
    cluster, proxy = cut_off
    door = cluster.start("door", "storescp server", f"outbox.most_bytes={16 * 1024 * 1024}")
    proxy.cut()
    kept: dict[str, bytes] = {}
    long = dict.fromkeys(("ImageComments", "PatientComments", "SeriesDescription", "ProtocolName"), "long" * 4000)
    template, status = part10(make(SOPInstanceUID="1.2.3.99999", **long)), 200
    while status == 200:
        assert len(kept) < 500, "it has a bound"
        uid = f"1.2.3.{10_000 + len(kept)}"
        file = template.replace(b"1.2.3.99999", uid.encode())
        status, _ = stow(door, file)
        if status == 200:
            kept[uid] = data_set_of(file)
    assert status == 507
    assert len(kept) > 50
    one = tmp_path / "one.dcm"
    one.write_bytes(part10(make()))

    def sends() -> subprocess.CompletedProcess[str]:
        return storescu(door, one, options=["-v"])

    until(lambda: "Local Limit Exceeded" in (sent := sends()).stdout + sent.stderr)
    assert measured(door, "dicomnode_outbox_low") == 1
    status, told = asked(door, "/readyz")
    assert (status, json.loads(told)["backends"]["outbox"]["up"]) == (503, False)
    proxy.forward()
    until(lambda: sends().returncode == 0)
    consumer = cluster.start("consumer", "consumer")
    until(lambda: kept.keys() < found(door).keys())
    for uid, (found_study, series) in found(door).items():
        if uid in kept:
            assert data_set_of(retrieved(door, found_study, series, uid)) == kept[uid]
    assert [door.stop(), consumer.stop()] == [0, 0]


def test_commands_hand_on_what_they_publish(over: Callable[[str], Cluster], tmp_path: Path) -> None:
    cluster = over("kafka")
    sent = written(tmp_path / "import", 12)
    words = cluster.words("command")
    imported = dicomnode("import", str(tmp_path / "import"), *words)
    assert imported.returncode == 0, imported.stderr
    unsound = dicomnode("fsck", *words, "--set", "consumer.catch_up_s=1.0")
    assert unsound.returncode == 1, "nobody has indexed yet"
    assert "12 received objects are not indexed yet" in unsound.stderr
    consumer = cluster.start("consumer", "consumer server")
    until(lambda: found(consumer).keys() == sent.keys())
    assert dicomnode("fsck", "--digests", *words).returncode == 0
    checked = dicomnode("check", "--json", *words)
    backends = ("configuration", "storage", "broker", "database", "cache", "warehouse", "outbox")
    assert json.loads(checked.stdout) == {"sound": True, "findings": {name: [] for name in backends}}


def test_a_port_that_is_not_shared_says_how_it_could_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ["--set", f"node.data_dir={tmp_path}", "--set", f"storescp.port={port}", "--set", "server.port=0"]
        told = dicomnode("run", *words)
        assert told.returncode == 2
        assert "storescp.reuse_port = true" in told.stderr
