"""A long time of faults, in `make test-chaos`: one server and its members, and three servers that are one Kafka."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from dicomnode_kafka.broker import KafkaBroker
from dicomnode_kafka.options import Options
from tests.backends import kafka
from tests.plugins.kafka.working import (
    GROUP,
    TOPIC,
    Worker,
    in_order_per_key,
    message,
    publish_patiently,
    until,
    work,
    workers,
)

FAR = Path("/nowhere")
pytestmark = [
    pytest.mark.skipif(not os.environ.get("DICOMNODE_CHAOS"), reason="a long time over Kafka: make test-chaos"),
    pytest.mark.timeout(600),
]


def told(url: str, **others: Any) -> dict[str, Any]:
    quick = {"url": url, "partitions": 6, "session_s": 3.0, "handover_s": 1.0, "fetch_wait_ms": 20, "timeout_s": 2.0}
    return {**quick, **others}


async def publish(node: KafkaBroker, stop: asyncio.Event, published: list[int]) -> None:
    while not stop.is_set():
        start = len(published)
        await publish_patiently(node, [message(start + ahead) for ahead in range(20)])
        published.extend(range(start, start + 20))
        await asyncio.sleep(0.02)


async def test_members_and_their_server_are_killed_and_frozen(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("DICOMNODE_CHAOS_SEED", "1")))
    with kafka.running(own=True) as server:
        options = told(server.url)
        published, stop = list[int](), asyncio.Event()
        with workers(tmp_path, options, options, options) as members:
            async with KafkaBroker(Options(**options), FAR) as node:
                publishing = asyncio.create_task(publish(node, stop, published))
                for _ in range(10):
                    await asyncio.sleep(chance.uniform(0.5, 4))
                    await harm(chance, server, members, lambda: members.append(Worker(tmp_path, options)))
                stop.set()
                await publishing
                async with asyncio.timeout(90):
                    while (await node.lag(TOPIC, GROUP)).messages:
                        await asyncio.sleep(0.05)
                # What one had acknowledged when it was killed it may not have had the time to say.
                killed = [member for member in members if member.process.poll() is not None]
                unsaid = {n for member in killed for n in member.said("given")[-10:]}
                assert {n for member in members for n in member.said("done")} | unsaid == set(published)


async def harm(chance: random.Random, server: kafka.Kafka, members: list[Worker], replace: Any) -> None:
    victim = chance.choice(members[-3:])
    match chance.randrange(3):
        case 0:
            await asyncio.to_thread(chance.choice((server.kill, server.stop)))
            await asyncio.sleep(chance.uniform(0, 3))
            await asyncio.to_thread(server.start)
        case 1:
            victim.process.kill()
            replace()
        case _:
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(0.5, 6))
            victim.process.send_signal(signal.SIGCONT)


async def test_of_three_servers_each_is_killed_in_turn() -> None:
    with kafka.cluster(3) as servers:
        url = "kafka://" + ",".join(server.url.removeprefix("kafka://") for server in servers)
        given, done, published, stop = list[int](), set[int](), list[int](), asyncio.Event()
        async with KafkaBroker(Options(**told(url, timeout_s=5.0)), FAR) as node:
            working = asyncio.create_task(work(await node.subscribe(TOPIC, GROUP), given, done))
            publishing = asyncio.create_task(publish(node, stop, published))
            for server in servers:
                before = len(published)
                await until(lambda before=before: len(published) > before + 200 and len(done) > before, 60)
                await asyncio.to_thread(server.kill)
                before = len(published)
                await until(lambda before=before: len(published) > before + 200 and len(done) > before + 200, 60)
                await node.ping()
                await asyncio.to_thread(server.start)
                await asyncio.sleep(3)  # to catch up with the others, which must not be the next to go before that
            stop.set()
            await publishing
            await until(lambda: done >= set(published), 60)
            assert in_order_per_key(given)
            assert len(given) < 2 * len(published)
            assert (await node.lag(TOPIC, GROUP)).messages == 0
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
