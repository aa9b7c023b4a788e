"""An Apache Kafka of the tests' own: one server that is its own controller, from the jars in .peers/kafka."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import msgspec
import pytest
import trustme
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

JARS = Path(__file__).parents[2] / ".peers" / "kafka" / "lib"
# A user who may do all, one who may do nothing, and both known by PLAIN and by SCRAM.
USER, NOBODY, PASSWORD = "modality", "stranger", "correct horse"
LISTENERS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_JAVA = ("-Xms96m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
_PATIENCE_S = 60.0
_places = count(1)


class Kafka(msgspec.Struct):
    """A server that answers at `url`; one that is ours can be stopped, killed and started, and has other listeners."""

    url: str
    folder: Path | None = None
    ports: dict[str, int] = {}
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Have it answer."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Have it on its way to that; one of several answers when most of them are there."""
        assert self.folder is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                java("kafka.Kafka", str(self.folder / "server.properties")), stdout=log, stderr=log, cwd=self.folder
            )

    def wait(self) -> None:
        """Return when it answers; fail with what it said when it ends, or takes too long."""
        assert self.folder is not None
        assert self.process is not None
        ends = time.monotonic() + _PATIENCE_S
        while not answers(self.ports["PLAINTEXT"]):
            if self.process.poll() is not None or time.monotonic() > ends:
                raise AssertionError(f"does not answer: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    @property
    def number(self) -> int:
        """Which of several it is."""
        assert self.folder is not None
        return int(self.folder.name)

    def stop(self) -> None:
        """Have it gone, after it has said goodbye."""
        self._end(15)

    def kill(self) -> None:
        """Have it gone at once."""
        self._end(9)

    def _end(self, signal: int) -> None:
        if self.process is not None:
            self.process.send_signal(signal)
            try:
                self.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(_PATIENCE_S)
            self.process = None


def answers(port: int) -> bool:
    """Tell whether a client gets in; in a thread, because a test may be in the middle of its own event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _answers(port)).result()


async def _answers(port: int) -> bool:
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=2000)
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers()) and client.cluster.controller is not None
    except (KafkaError, OSError):
        return False
    finally:
        await client.close()


def java(*arguments: str) -> list[str]:
    """Return the command that runs a class of Kafka's."""
    return ["java", *_JAVA, _QUIET, "-cp", f"{JARS}/*", *arguments]


@contextmanager
def running(*, own: bool = False) -> Iterator[Kafka]:
    """Have a server: ours, or, unless it must be our `own`, DICOMNODE_TEST_KAFKA_URL's; else skip."""
    if (url := os.environ.get("DICOMNODE_TEST_KAFKA_URL")) and not own:
        yield Kafka(url)
        return
    with cluster(1) as (server,):
        yield server


@contextmanager
def cluster(count: int) -> Iterator[list[Kafka]]:
    """Have `count` servers that are one Kafka; else skip."""
    if shutil.which("java") is None or not list(JARS.glob("kafka_*.jar")):
        pytest.skip("the broker plugin kafka was not tested: no Kafka here (scripts/peers installs it)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-kafka-") as name:
        servers = [_made(Path(name) / str(number)) for number in range(1, count + 1)]
        for server in servers:
            _prepare(server, servers)
        try:
            for server in servers:
                server.launch()
            for server in servers:
                server.wait()
            yield servers
        finally:
            for server in servers:
                server.kill()


def _made(folder: Path) -> Kafka:
    folder.mkdir()
    ports = {listener: _free_port() for listener in (*LISTENERS, "CONTROLLER")}
    return Kafka(f"kafka://127.0.0.1:{ports['PLAINTEXT']}", folder, ports)


def _free_port() -> int:
    """Return a port of its own also while it is down: none of those that clients are given to call from."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _prepare(server: Kafka, servers: list[Kafka]) -> None:
    assert server.folder is not None
    _certify(server.folder)
    voters = ",".join(f"{other.number}@127.0.0.1:{other.ports['CONTROLLER']}" for other in servers)
    lines = _properties(server.folder, server.ports) | _together(server.number, voters, len(servers))
    (server.folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    _format(server.folder)


def _certify(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issues = {"server": authority.issue_cert("127.0.0.1"), "client": authority.issue_cert(USER, common_name=USER)}
    for who, issued in issues.items():
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the only one that Kafka reads
        (folder / f"{who}.pem").write_bytes(pem + b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    trustme.CA().cert_pem.write_to_path(str(folder / "another-ca.pem"))


def _format(folder: Path) -> None:
    users = [
        part
        for user in (USER, NOBODY)
        for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for part in ("--add-scram", f"{kind}=[name={user},password={PASSWORD}]")
    ]
    command = java("kafka.tools.StorageTool", "format", "-t", "ZGljb21ub2RlLXRlc3Qtaw", *users)
    subprocess.run([*command, "-c", str(folder / "server.properties")], check=True, capture_output=True, cwd=folder)


def _together(number: int, voters: str, count: int) -> dict[str, str]:
    return {
        "node.id": str(number),
        "controller.quorum.voters": voters,
        "default.replication.factor": str(count),
        "min.insync.replicas": str(count // 2 + 1),
        "offsets.topic.replication.factor": str(count),
        "transaction.state.log.replication.factor": str(count),
        "transaction.state.log.min.isr": str(count // 2 + 1),
    }


def _properties(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    places = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}" '
    plain += f'user_{NOBODY}="{PASSWORD}";'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    lines = {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": places,
        "advertised.listeners": ",".join(place for place in places.split(",") if not place.startswith("CONTROLLER")),
        "listener.security.protocol.map": ",".join(f"{name}:{name}" for name in LISTENERS) + ",CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.ssl.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER}",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]*).*$/$1/",
        # One of each of what there are three of elsewhere, and nothing waits for long.
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "500",
        "group.coordinator.append.linger.ms": "0",
        "broker.heartbeat.interval.ms": "300",
        "broker.session.timeout.ms": "2000",
        "auto.create.topics.enable": "true",
        "log.cleaner.dedupe.buffer.size": "2097152",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        lines[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        for kind in ("scram-sha-256", "scram-sha-512"):
            lines[f"listener.name.{listener}.{kind}.sasl.jaas.config"] = scram
    return lines


def options(port: str, server: Kafka) -> dict[str, object]:
    """Return options with topics and groups that nobody has used, for tests that have no time to wait."""
    place = f"test-{os.getpid()}-{next(_places)}."
    return {
        "url": server.url,
        "topic_prefix": place,
        "group_prefix": place,
        "partitions": 3,
        "session_s": 3.0,
        "handover_s": 1.0,
        "fetch_wait_ms": 20,
        "timeout_s": 10.0,
    }
