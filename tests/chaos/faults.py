"""What goes wrong: each fault takes something away for a while and gives it back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from dicomnode import plug
from dicomnode.config import PluginTable
from dicomnode.model.messages import IMAGE_QUEUE, LOG_QUEUE, STATE_QUEUE, STORAGE_QUEUE, TRANSFER_QUEUE
from dicomnode.ports.broker import Broker, Message, Remote
from tests.chaos.cluster import Cluster, Process

_TAP = "chaos"
_TAPPED = (STORAGE_QUEUE, LOG_QUEUE, TRANSFER_QUEUE)
_POISON = (b"", b"\xff\xfe no JSON", b"{}", b"null", b'{"trace_id":"x"}')
_AWAY_S = 2.0
_FEW = 50


class Fault(msgspec.Struct, frozen=True):
    """A fault by name: `happen` begins and ends it. `refuses`: senders may be told "out of resources" meanwhile."""

    name: str
    happen: Callable[[], None]
    refuses: bool = False


def faults(cluster: Cluster, disk: Path | None = None) -> Iterator[Fault]:
    """Yield every fault that this cluster can have."""
    for process in cluster.processes.values():
        yield Fault(f"kill {process.name}", _kill(cluster, process))
        yield Fault(f"restart {process.name}", _restart(cluster, process))
        yield Fault(f"hang {process.name}", _hang(process))
    for port, backend in cluster.backends.items():
        away = port in ("storage", "broker")
        yield Fault(f"stop {backend.name}", partial(_away, backend.take_away, backend.give_back), away)
        if backend.proxy is not None:
            for way in ("cut", "hang", "drop"):
                begin, end = getattr(backend.proxy, way), backend.proxy.forward
                name = f"network to {backend.name}: {way}"
                yield Fault(name, partial(_away, begin, end), away)
            slow = backend.proxy.delay
            yield Fault(f"network to {backend.name}: slow", partial(_away, partial(slow, 0.05), end))
    yield Fault("poison", lambda: with_broker(cluster, _poison))
    yield Fault("everything again", lambda: with_broker(cluster, _repeat))
    yield Fault("clock back", lambda: _away(lambda: cluster.clock(-3600), lambda: cluster.clock(0)))
    yield Fault("clock forward", lambda: _away(lambda: cluster.clock(86_400), lambda: cluster.clock(0)))
    if disk is not None:
        yield Fault("disk full", lambda: _full(disk), refuses=True)


def drawn(found: Sequence[Fault], seed: int, most: int) -> list[Fault]:
    """Return up to `most` of the faults in an order that `seed` says, each once before any comes again."""
    chosen: list[Fault] = []
    chance = random.Random(seed)
    while len(chosen) < most:
        chosen += chance.sample(list(found), len(found))
    return chosen[:most]


def _kill(cluster: Cluster, process: Process) -> Callable[[], None]:
    def happen() -> None:
        process.kill()
        process.begin()
        process.wait_ready()

    return happen


def _restart(cluster: Cluster, process: Process) -> Callable[[], None]:
    def happen() -> None:
        assert process.stop() == 0, process.told()
        process.begin()
        process.wait_ready()

    return happen


def _hang(process: Process) -> Callable[[], None]:
    return lambda: _away(process.pause, process.resume)


def _away(begin: Callable[[], object], end: Callable[[], object], seconds: float = _AWAY_S) -> None:
    begin()
    try:
        time.sleep(seconds)
    finally:
        end()


def _full(disk: Path) -> None:
    """Have no byte left on the file system for a while."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            for size in (1 << 20, 1 << 12):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
            time.sleep(_AWAY_S)
        finally:
            ballast.unlink()


def with_broker(cluster: Cluster, work: Callable[[Broker], object]) -> None:
    """Have `work` done on the broker: beside the cluster where it is elsewhere, else between two lives of the node."""
    apart = cluster.layout.is_apart
    if not apart:
        cluster.kill()
    asyncio.run(_on_broker(cluster, work))
    if not apart:
        cluster.start()


async def _on_broker(cluster: Cluster, work: Callable[[Broker], object]) -> None:
    config = cluster.config()
    told = PluginTable(config.broker.use, config.broker.options)
    folder = Path(config.node.data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    broker: Broker = plug.make("broker", Broker, told, folder)
    async with broker:
        done = work(broker)
        if asyncio.iscoroutine(done):
            await done


async def tap(broker: Broker) -> None:
    """Have what is published from now on kept for `everything again`."""
    for topic in _TAPPED:
        await broker.subscribe(topic, _TAP)


async def _poison(broker: Broker) -> None:
    topics = (*_TAPPED, STATE_QUEUE, IMAGE_QUEUE)
    await broker.publish([Message(topic, "poison", body) for topic in topics for body in _POISON])


async def _repeat(broker: Broker) -> None:
    """Publish again all that the tap has: every message comes at least twice."""
    quiet_s = 3.0 if isinstance(broker, Remote) else 0.3
    for topic in _TAPPED:
        subscription = await broker.subscribe(topic, _TAP)
        while True:
            try:
                async with asyncio.timeout(quiet_s):
                    deliveries = await subscription.take(500, 0.2)
            except TimeoutError:
                break
            await subscription.ack(deliveries)
            # The copies come to the tap too, and must not go round for ever.
            fresh = [d.message for d in deliveries if not d.message.key.startswith("again:")]
            await broker.publish([Message(m.topic, f"again:{m.key}", m.body) for m in fresh])
            if len(deliveries) < _FEW:  # what was there is done: these come just now
                break
