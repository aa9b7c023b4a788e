"""What is peculiar to RabbitMQ: queues and who reads them, a server that is killed or full, and who may come in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import pytest

from dicomnode.errors import ConfigError, Full, PluginError, Unavailable
from dicomnode.ports.broker import Delivery, Message, Subscription
from dicomnode_rabbitmq.broker import Options, RabbitmqBroker
from tests.backends import rabbitmq, started
from tests.backends.postgres import free_port
from tests.certificates import authority_file

FAR = Path("/nowhere")
TOPIC, GROUP = "storage_queue", "consumer"


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("broker", "rabbitmq")


@pytest.fixture
def server() -> rabbitmq.Server:
    """The server, if it is ours to stop and set."""
    found: rabbitmq.Server = started.server("rabbitmq")
    if found.folder is None:
        pytest.skip("faults of RabbitMQ were not tested: the server is not ours to stop")
    return found


@asynccontextmanager
async def opened(options: dict[str, Any], **more: Any) -> AsyncIterator[RabbitmqBroker]:
    async with RabbitmqBroker(Options(**{**options, **more}), FAR) as broker:
        yield broker


@asynccontextmanager
async def channel(options: dict[str, Any]) -> AsyncIterator[Any]:
    """A client that is not ours."""
    async with await aio_pika.connect(options["url"]) as connection, connection.channel() as opened_channel:
        yield opened_channel


def message(number: int, key: str = "1.2.3", topic: str = TOPIC) -> Message:
    return Message(topic, key, str(number).encode())


def bodies(deliveries: Any) -> list[int]:
    return [int(delivery.message.body) for delivery in deliveries]


async def take_all(subscription: Subscription, count: int, acknowledge: bool = True) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(taken) < count:
            some = await subscription.take(1000)
            taken.extend(some)
            if acknowledge:
                await subscription.ack(some)
    return taken


async def nothing_comes(subscription: Subscription) -> bool:
    try:
        await asyncio.wait_for(subscription.take(1), 0.2)
    except TimeoutError:
        return True
    return False


def first_times(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


async def until_it_is(true: Any, patience_s: float = 20) -> None:
    async with asyncio.timeout(patience_s):
        while not await true():
            await asyncio.sleep(0.02)


async def test_what_is_sent_before_the_first_consumer_came_is_kept(options: dict[str, Any]) -> None:
    async with opened(options, queues=("log_queue:recorder",)) as storescp:
        await storescp.publish([message(1), message(2, topic="log_queue"), message(3, topic="nobody's")])
        assert (await storescp.lag(TOPIC, GROUP)).messages == 1
    async with opened(options) as consumer:
        assert bodies(await take_all(await consumer.subscribe(TOPIC, GROUP), 1)) == [1]
        assert bodies(await take_all(await consumer.subscribe("log_queue", "recorder"), 1)) == [2]
        assert await nothing_comes(await consumer.subscribe("nobody's", "late"))


async def test_what_the_workers_gave_up_is_kept(options: dict[str, Any]) -> None:
    async with opened(options) as broker:
        await broker.publish([message(1, topic="storage_queue.dead")])
        await broker.publish([message(2, topic="storage_queue.dead")])
        await broker.subscribe("storage_queue.dead", "operator")
        async with channel(options) as stranger:  # who may look at it as long as nobody takes it
            queue = await stranger.get_queue(f"{options['prefix']}storage_queue.dead.operator.0")
            seen = await queue.get(timeout=10)
            assert seen.body == b"1"
            await seen.nack(requeue=True)

        async def both_wait() -> bool:
            return (await broker.lag("storage_queue.dead", "operator")).messages == 2

        await until_it_is(both_wait)
        came = await take_all(await broker.subscribe("storage_queue.dead", "operator"), 2)
        assert sorted(bodies(came)) == [1, 2]


async def test_a_queue_that_is_gone_is_made_again(options: dict[str, Any]) -> None:
    async with opened(options) as broker, channel(options) as stranger:
        subscription = await broker.subscribe(TOPIC, GROUP)
        await broker.publish([message(1)])
        await take_all(subscription, 1)
        for number in range(2):
            await stranger.queue_delete(f"{options['prefix']}{TOPIC}.{GROUP}.{number}")
        keys: set[str] = set()

        async def both_come_again() -> bool:
            await broker.publish([message(1, key=key) for key in ("1", "2", "3", "4")])
            with contextlib.suppress(TimeoutError):  # what was sent into a queue as it was deleted went with it
                async with asyncio.timeout(0.3):
                    keys.update(delivery.message.key for delivery in await subscription.take(100, 0.1))
            return len(keys) == 4

        await until_it_is(both_come_again)


async def test_a_group_keeps_its_queues_whatever_others_are_told(options: dict[str, Any]) -> None:
    many = [message(number, key=str(number)) for number in range(100)]
    async with opened(options, partitions=3) as one, opened(options, partitions=8) as other:
        await other.publish(many)
        subscription = await other.subscribe(TOPIC, GROUP)
        assert sorted(bodies(await take_all(subscription, 100))) == list(range(100))
        assert await nothing_comes(subscription)
        assert (await one.lag(TOPIC, GROUP)).messages == 0


async def test_messages_of_strangers_stop_nobody(options: dict[str, Any]) -> None:
    async with opened(options) as broker, channel(options) as stranger:
        subscription = await broker.subscribe(TOPIC, GROUP)
        await broker.publish([message(1)])
        await take_all(subscription, 1)
        exchange = await stranger.get_exchange(options["prefix"] + TOPIC)
        strange: list[dict[str, Any]] = [{}, {"key": bytearray(b"\xff\xfe")}, {"key": 7, "at": "noon"}, {"key": ["a"]}]
        for headers in strange:
            await exchange.publish(aio_pika.Message(b"\xff\x00", headers=headers), "7")
        taken = await take_all(subscription, len(strange))
        assert [(delivery.message.key, delivery.message.body) for delivery in taken] == [("", b"\xff\x00")] * 4
        assert (await broker.lag(TOPIC, GROUP)).messages == 0


async def test_a_message_that_comes_very_often_is_not_dropped(options: dict[str, Any]) -> None:
    async with opened(options, partitions=1) as broker:
        await broker.publish([message(1)])
        for _ in range(25):
            subscription = await broker.subscribe(TOPIC, GROUP)
            (delivery,) = await take_all(subscription, 1, acknowledge=False)
        assert delivery.redelivered
        await subscription.ack([delivery])
        assert await nothing_comes(await broker.subscribe(TOPIC, GROUP))


async def test_what_is_held_is_bounded_and_a_full_hand_does_not_linger(options: dict[str, Any]) -> None:
    async with opened(options, partitions=1, prefetch=10) as broker:
        subscription = await broker.subscribe(TOPIC, GROUP)
        await broker.publish([message(number) for number in range(25)])
        async with asyncio.timeout(20):
            for expected in (range(10), range(10, 20), range(20, 25)):
                taken = await subscription.take(1000, 60 if expected[-1] < 24 else 0.3)
                assert bodies(taken) == list(expected)
                assert (await broker.lag(TOPIC, GROUP)).messages == 25 - expected[0]
                await subscription.ack(taken)


async def test_lag_from_outside_counts_what_waits_on_the_server(options: dict[str, Any]) -> None:
    async with opened(options, prefetch=1) as worker, opened(options) as other:
        await worker.subscribe(TOPIC, GROUP)
        await worker.publish([message(number, key=str(number)) for number in range(20)])

        async def as_told() -> bool:
            mine, theirs = await worker.lag(TOPIC, GROUP), await other.lag(TOPIC, GROUP)
            return (mine.messages, theirs.messages, theirs.oldest_s) == (20, 18, 0.0) and 0 < mine.oldest_s < 30

        await until_it_is(as_told)


async def test_processes_share_a_group_and_take_over(options: dict[str, Any]) -> None:
    keys = [f"1.2.{number}" for number in range(40)]
    seen: dict[str, list[int]] = {key: [] for key in keys}
    by: dict[str, set[str]] = {"one": set(), "two": set()}

    async def work(name: str, subscription: Subscription) -> None:
        while True:
            taken = await subscription.take(5)
            for delivery in taken:
                seen[delivery.message.key].append(int(delivery.message.body))
                by[name].add(delivery.message.key)
            await asyncio.sleep(0.001)
            await subscription.ack(taken)

    async def publish(broker: RabbitmqBroker, numbers: range) -> None:
        for number in numbers:
            await broker.publish([message(number, key=key) for key in keys])

    async with opened(options, partitions=6, share_s=0.2) as two:
        async with opened(options, partitions=6, share_s=0.2) as one:
            first = asyncio.create_task(work("one", await one.subscribe(TOPIC, GROUP)))
            await publish(two, range(3))
            second = asyncio.create_task(work("two", await two.subscribe(TOPIC, GROUP)))
            rounds = 3
            async with asyncio.timeout(20):
                while len(by["two"]) < 10:
                    await publish(two, range(rounds, rounds := rounds + 1))
            for names in by.values():
                names.clear()
            await publish(two, range(rounds, rounds := rounds + 5))

            async def all_came() -> bool:
                return all(numbers[-1:] == [rounds - 1] for numbers in seen.values())

            await until_it_is(all_came)
            assert by["one"].isdisjoint(by["two"]), "a key is with one of them at a time"
            assert 10 <= len(by["one"]) <= 30, "about half of the keys"
            first.cancel()
            await publish(two, range(rounds, rounds := rounds + 3))
        await until_it_is(all_came)
        second.cancel()
    for numbers in seen.values():
        assert first_times(numbers) == list(range(rounds)), "nothing is lost, and each key is in order"


async def test_who_hangs_is_relieved(options: dict[str, Any]) -> None:
    told = msgspec.json.encode({**options, "heartbeat_s": 1, "share_s": 3600.0}).decode()
    command = [sys.executable, "-m", "tests.plugins.rabbitmq.member", told]
    async with opened(options, share_s=3600.0) as broker:
        await broker.publish([message(number) for number in range(5)])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                said = [process.stdout.readline() for _ in range(6)]
                assert said == ["ready\n", *(f"{number}\n" for number in range(5))]
                subscription = await broker.subscribe(TOPIC, GROUP)
                process.send_signal(signal.SIGSTOP)
                await broker.publish([message(number) for number in range(5, 10)])
                assert bodies(await take_all(subscription, 5)) == [5, 6, 7, 8, 9]
            finally:
                process.kill()


async def test_a_server_that_is_killed_loses_nothing(
    options: dict[str, Any], server: rabbitmq.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dicomnode.rabbitmq")
    confirmed: list[int] = []
    seen: list[int] = []

    async def publish(broker: RabbitmqBroker) -> None:
        number = 0
        while True:
            try:
                await broker.publish([message(number)])
            except (Unavailable, Full):
                await asyncio.sleep(0.05)
            else:
                confirmed.append(number)
                number += 1

    async def work(subscription: Subscription) -> None:
        while True:
            taken = await subscription.take(10)
            seen.extend(bodies(taken))
            await asyncio.sleep(0.02)  # behind those who publish
            await subscription.ack(taken)

    async with opened(options) as broker:
        working = asyncio.create_task(work(await broker.subscribe(TOPIC, GROUP)))
        publishing = asyncio.create_task(publish(broker))

        async def some() -> bool:
            return len(confirmed) > before + 100

        before = 0
        await until_it_is(some)
        try:
            await asyncio.to_thread(server.kill)
            with pytest.raises(Unavailable):
                await broker.ping()
            with pytest.raises(Unavailable):
                await broker.lag(TOPIC, GROUP)
        finally:
            await asyncio.to_thread(server.start)
        before = len(confirmed)
        await until_it_is(some)
        publishing.cancel()

        async def all_came() -> bool:
            return seen[-1] >= confirmed[-1]

        await until_it_is(all_came)
        await broker.ping()
        working.cancel()
    assert first_times(seen)[: len(confirmed)] == confirmed, "nothing that was confirmed is lost, all is in order"
    assert len(seen) < 2 * len(confirmed)
    told = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert sorted(told) == ["broker.back", "broker.back", "broker.lost", "broker.lost"], "once for each connection"


async def test_a_server_without_memory_takes_nothing_and_says_so(
    options: dict[str, Any], server: rabbitmq.Server
) -> None:
    async with opened(options, timeout_s=0.5) as broker:
        subscription = await broker.subscribe(TOPIC, GROUP)
        await broker.publish([message(number) for number in range(10)])
        taken = await take_all(subscription, 10, acknowledge=False)
        alarm = "{{resource_limit, memory, node()}, []}"
        await asyncio.to_thread(server.control, "eval", f"rabbit_alarm:set_alarm({alarm}).")
        try:

            async def refused() -> bool:
                since = time.monotonic()
                try:
                    await broker.publish([message(10)])
                except Full:
                    return True
                finally:
                    assert time.monotonic() - since < 5
                return False

            await until_it_is(refused)
            with pytest.raises(Full, match="memory or disk"):
                await broker.ping()
            await subscription.ack(taken)
            assert (await broker.lag(TOPIC, GROUP)).messages < 10, "those who read are not held up"
        finally:
            await asyncio.to_thread(server.control, "eval", f"rabbit_alarm:clear_alarm(element(1, {alarm})).")

        async def taken_again() -> bool:
            try:
                await broker.publish([message(11)])
            except (Full, Unavailable):
                return False
            return True

        await until_it_is(taken_again)
        async with asyncio.timeout(20):
            while 11 not in bodies(some := await subscription.take(100)):
                await subscription.ack(some)


async def test_a_message_that_is_too_long_is_told_apart(options: dict[str, Any], server: rabbitmq.Server) -> None:
    async with opened(options, max_message_bytes=rabbitmq.MOST_BYTES * 2) as broker:
        subscription = await broker.subscribe(TOPIC, GROUP)
        for length in (rabbitmq.MOST_BYTES * 2 + 1, rabbitmq.MOST_BYTES + 1, rabbitmq.MOST_BYTES + 1):
            with pytest.raises(PluginError, match=f"{length} bytes") as caught:
                await broker.publish([Message(TOPIC, "1", bytes(length))])
            assert not isinstance(caught.value, Unavailable | Full), "it would be tried again for ever"
        await broker.publish([message(1)])
        assert bodies(await take_all(subscription, 1)) == [1]


async def test_who_may_not_come_in_is_told(options: dict[str, Any]) -> None:
    url = options["url"]
    place = url.partition("@")[2]
    for wrong, problem in (
        ({"password": "s3cret"}, "refused the user or the password"),
        ({"url": f"amqp://nobody:s3cret@{place}"}, "refused the user or the password"),
        ({"url": f"{url}?ca_file=/x"}, "there is no ca_file"),
        ({"url": "kafka://s3cret@127.0.0.1:1"}, "is no address"),
        ({"url": "amqp://127.0.0.1:s3cret"}, "is no address"),
        ({"queues": ("log_queue",)}, "is not topic:group"),
        ({"partitions": 7}, "is none of 1, 2, 3, 4, 6, 8, 12, 24"),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            async with opened(options, **wrong):
                pass
        assert "s3cret" not in str(caught.value) + repr(Options(**{**options, **wrong}))


async def test_a_virtual_host_that_is_not_there_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="refused the virtual host"):
        async with opened(options, url=f"{options['url']}elsewhere"):
            pass


async def test_a_user_who_may_do_little_is_told_what_is_wanted(
    options: dict[str, Any], server: rabbitmq.Server
) -> None:
    await asyncio.to_thread(
        server.control, "eval", 'rabbit_auth_backend_internal:add_user(<<"poor">>, <<"poor">>, <<"t">>).'
    )
    await asyncio.to_thread(
        server.control,
        "eval",
        'rabbit_auth_backend_internal:set_permissions(<<"poor">>, <<"/">>, <<"^$">>, <<".*">>, <<".*">>, <<"t">>).',
    )
    with pytest.raises(ConfigError, match=r"may not do this .*configure, write and read"):
        async with opened(options, user="poor", password="poor"):
            pass


async def test_without_a_server_it_is_unavailable() -> None:
    since = time.monotonic()
    with pytest.raises(Unavailable):
        async with opened({"url": f"amqp://guest:guest@127.0.0.1:{free_port()}/"}):
            pass

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="took too long"):
            async with opened({"url": f"amqp://guest:guest@127.0.0.1:{port}/", "timeout_s": 0.2}):
                pass
    assert time.monotonic() - since < 5


async def test_tls(options: dict[str, Any], server: rabbitmq.Server, tmp_path: Path) -> None:
    async with opened(options, url=f"{server.tls}?cafile={authority_file(tmp_path)}") as broker:
        subscription = await broker.subscribe(TOPIC, GROUP)
        await broker.publish([message(1)])
        assert bodies(await take_all(subscription, 1)) == [1]
    with pytest.raises(ConfigError, match="certificate is not trusted"):
        async with opened(options, url=f"{server.tls}?cafile={authority_file(tmp_path, 'theirs')}"):
            pass
    with pytest.raises(ConfigError, match="file of certificates"):
        async with opened(options, url=f"{server.tls}?cafile={tmp_path / 'none.pem'}"):
            pass
