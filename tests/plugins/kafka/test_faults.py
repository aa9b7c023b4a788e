"""Nothing is lost: servers that are killed, members that are killed, frozen, restarted."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import Unavailable
from dicomnode_kafka.broker import KafkaBroker
from dicomnode_kafka.options import Options
from tests.backends import kafka, started
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
pytestmark = pytest.mark.timeout(180)  # a server is started anew, which is much work for a busy machine


@pytest.fixture
def server() -> Iterator[kafka.Kafka]:
    """Have the server of this run, if it is ours to kill; it answers again at the end."""
    server: kafka.Kafka = started.server("kafka")
    if server.folder is None:
        pytest.skip("an outage of Kafka was not tested: the server is not ours")
    yield server
    if server.process is None:
        server.start()


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("broker", "kafka")


def broker(options: dict[str, Any], **others: Any) -> KafkaBroker:
    return KafkaBroker(Options(**{**options, **others}), FAR)


async def test_a_server_that_is_killed_under_way_loses_nothing(options: dict[str, Any], server: kafka.Kafka) -> None:
    given, done, published = list[int](), set[int](), 0
    async with broker(options, timeout_s=2) as node:
        working = asyncio.create_task(work(await node.subscribe(TOPIC, GROUP), given, done))

        async def publish(stop: asyncio.Event) -> None:
            nonlocal published
            while not stop.is_set():
                await publish_patiently(node, [message(published + ahead) for ahead in range(20)])
                published += 20
                await asyncio.sleep(0.005)

        stop = asyncio.Event()
        publishing = asyncio.create_task(publish(stop))
        await until(lambda: published > 300 and len(done) > 100)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(random.uniform(0, 0.5))
        await asyncio.to_thread(server.start)
        before = published
        await until(lambda: published > before)
        stop.set()
        await publishing
        await until(lambda: done >= set(range(published)))
        assert in_order_per_key(given)
        assert not working.done()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert (await node.lag(TOPIC, GROUP)).messages == 0
    assert len(given) < 2 * published, "far more came again than was in hand"


async def test_while_the_server_is_away_publishing_says_so_and_leaves_nothing_behind(
    options: dict[str, Any], server: kafka.Kafka
) -> None:
    async with broker(options, timeout_s=2) as node:
        subscription = await node.subscribe(TOPIC, GROUP)
        await node.publish([message(0)])
        (first,) = await subscription.take(1)
        await asyncio.to_thread(server.kill)
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                await node.publish([message(1)] * 100)
            assert time.monotonic() - begun < 6
        for failing in (node.ping(), node.lag(TOPIC, GROUP), subscription.ack([first])):
            with pytest.raises(Unavailable):
                await failing
        taking = asyncio.create_task(subscription.take(1))
        await asyncio.sleep(1)
        assert not taking.done(), "an outage is ridden out"
        await asyncio.to_thread(server.start)
        await publish_patiently(node, [message(2)])
        taken = [int(delivery.message.body) for delivery in await asyncio.wait_for(taking, 30)]
        while taken[-1] != 2:  # of what could not be published some may have been on its way
            taken += [int(delivery.message.body) for delivery in await asyncio.wait_for(subscription.take(500), 30)]
        await until(lambda: not node._publisher._leaving)
        await node.ping()
    gc.collect()
    assert len(asyncio.all_tasks()) == 1


async def test_what_a_killed_member_had_goes_to_the_other(options: dict[str, Any], tmp_path: Path) -> None:
    told = {**options, "partitions": 4, "session_s": 1.5}
    with workers(tmp_path, told, told) as (one, two):
        await until(lambda: one.is_ready() and two.is_ready())
        async with broker(told) as node:
            for start in range(0, 300, 20):
                await node.publish([message(start + ahead) for ahead in range(20)])
                await asyncio.sleep(0.01)
            await until(lambda: one.said("done") and two.said("done"))
            one.process.kill()
            await node.publish([message(number) for number in range(300, 400)])
            # What it had acknowledged when it was killed it may not have had the time to say.
            await until(lambda: {*one.said("given"), *two.said("done")} == set(range(400)))
            async with asyncio.timeout(30):
                while (await node.lag(TOPIC, GROUP)).messages:
                    await asyncio.sleep(0.05)
            assert len(set(range(400)) - {*one.said("done"), *two.said("done")}) <= 10, "a batch"
            assert in_order_per_key(two.said("given"))


async def test_a_member_that_hangs_is_replaced_and_may_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    told = {**options, "partitions": 4, "session_s": 1.5}
    with workers(tmp_path, told, told) as (one, two):
        await until(lambda: one.is_ready() and two.is_ready())
        async with broker(told) as node:
            await node.publish([message(number) for number in range(100)])
            await until(lambda: {*one.said("done"), *two.said("done")} == set(range(100)))
            assert one.said("done")
            one.process.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            await node.publish([message(number) for number in range(100, 200)])
            await until(lambda: set(two.said("done")) >= set(range(100, 200)))
            assert time.monotonic() - begun < told["session_s"] + 10
            one.process.send_signal(signal.SIGCONT)
            number = 200

            async def came_back() -> None:
                nonlocal number
                while not any(done >= 200 for done in one.said("done")):
                    await node.publish([message(number + ahead) for ahead in range(10)])
                    number += 10
                    await asyncio.sleep(0.1)

            await asyncio.wait_for(came_back(), 30)
            await until(lambda: {*one.said("done"), *two.said("done")} == set(range(number)))


async def test_a_handler_that_waits_keeps_its_share_and_one_that_is_stuck_loses_it(options: dict[str, Any]) -> None:
    told = {**options, "partitions": 1, "session_s": 0.6, "handover_s": 0.1}
    async with broker(told, handling_s=3.5) as slow, broker(told) as other:
        mine = await slow.subscribe(TOPIC, GROUP)
        await slow.publish([message(0)])
        in_hand = await mine.take(1)
        await asyncio.sleep(1.8)  # three sessions, within which its loop is alive
        await mine.ack(in_hand)
        await slow.publish([message(1)])
        in_hand = await mine.take(1)
        assert not in_hand[0].redelivered
        yours = await other.subscribe(TOPIC, GROUP)
        (again,) = await asyncio.wait_for(yours.take(1), 30)
        assert (again.message, again.redelivered) == (in_hand[0].message, True)
        await yours.ack([again])
        await mine.ack(in_hand)  # it is not its own any more, and no harm done
        assert (await slow.lag(TOPIC, GROUP)).messages == 0


async def test_a_member_with_a_name_comes_back_without_a_new_share_out(options: dict[str, Any], tmp_path: Path) -> None:
    told = [{**options, "partitions": 4, "session_s": 15.0, "instance": name} for name in ("node-1", "node-2")]
    with workers(tmp_path, *told) as members:
        one, two = members
        await until(lambda: one.is_ready() and two.is_ready())
        async with broker(options) as node:
            await node.publish([message(number) for number in range(100)])
            await until(lambda: {*one.said("done"), *two.said("done")} == set(range(100)))
            keys_of_two = {number % 10 for number in two.said("done")}
            generation = await _generation(node)
            one.process.kill()
            one.process.wait()
            members.append(again := Worker(tmp_path, told[0]))
            await until(again.is_ready)
            await node.publish([message(number) for number in range(100, 200)])
            await until(lambda: {*again.said("done"), *two.said("done")} >= set(range(100, 200)))
            assert {number % 10 for number in two.said("done")} == keys_of_two
            assert not set(again.said("done")) & set(range(100)), "commits survive"
            assert await _generation(node) == generation


async def _generation(node: KafkaBroker) -> bytes:
    """Return what the servers say of the members of the group and of who has what, which changes with a share-out."""
    group = node._group(TOPIC, GROUP)
    (answer,) = await node._onlooker._admin.asked(lambda admin: admin.describe_consumer_groups([group]))
    (told,) = answer.groups
    return b"|".join(sorted(member[-1] for member in told[5]))
