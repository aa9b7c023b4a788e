"""What is peculiar to Kafka: who gets in, what the topics are, what others write, what outlives a member."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from dicomnode.errors import ConfigError, PluginError, Unavailable
from dicomnode.model.messages import dead_topic
from dicomnode.ports.broker import Broker, Delivery, Message, Remote, Subscription
from dicomnode_kafka.broker import KafkaBroker
from dicomnode_kafka.options import Options
from tests.backends import kafka, started
from tests.backends.postgres import free_port

FAR = Path("/nowhere")
TOPIC, GROUP = "storage_queue", "consumer"


@pytest.fixture
def options() -> dict[str, Any]:
    return started.options("broker", "kafka")


@pytest.fixture
def server() -> kafka.Kafka:
    server: kafka.Kafka = started.server("kafka")
    if not server.ports:
        pytest.skip("credentials and TLS of Kafka were not tested: the server is not ours")
    return server


def broker(options: dict[str, Any], **others: Any) -> KafkaBroker:
    return KafkaBroker(Options(**{**options, **others}), FAR)


def message(number: int, key: str = "1.2.3", topic: str = TOPIC) -> Message:
    return Message(topic, key, str(number).encode())


def bodies(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.message.body) for delivery in deliveries]


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await asyncio.wait_for(subscription.take(count - len(taken)), 15)
    return taken


@asynccontextmanager
async def started_client(client: Any) -> AsyncIterator[Any]:
    await client.start()
    try:
        yield client
    finally:
        await (client.stop() if hasattr(client, "stop") else client.close())


def servers(options: dict[str, Any]) -> dict[str, str]:
    return {"bootstrap_servers": options["url"].removeprefix("kafka://")}


async def test_it_is_remote_and_tells_where_it_is(options: dict[str, Any]) -> None:
    assert isinstance(broker(options), Broker)
    assert isinstance(broker(options), Remote)
    async with broker(options) as node:
        await node.ping()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_user_gets_in_and_a_stranger_does_not(
    options: dict[str, Any], server: kafka.Kafka, mechanism: str
) -> None:
    url = f"kafka://127.0.0.1:{server.ports['SASL_PLAINTEXT']}"
    told = {**options, "url": url, "username": kafka.USER, "mechanism": mechanism}
    async with broker(told, password=kafka.PASSWORD) as node:
        subscription = await node.subscribe(TOPIC, GROUP)
        await node.publish([message(1)])
        assert bodies(await take(subscription, 1)) == [1]
    with pytest.raises(ConfigError, match="user") as refusal:
        await broker(told, password="wrong").__aenter__()
    assert "wrong" not in str(refusal.value)


async def test_tls_with_a_certificate_and_with_a_password(options: dict[str, Any], server: kafka.Kafka) -> None:
    assert server.folder is not None
    ca, mine = str(server.folder / "ca.pem"), str(server.folder / "client.pem")
    certified = {**options, "url": f"kafka+ssl://127.0.0.1:{server.ports['SSL']}", "ca_file": ca}
    known = {**options, "url": f"kafka+ssl://127.0.0.1:{server.ports['SASL_SSL']}", "ca_file": ca}
    secret = {"username": kafka.USER, "password": kafka.PASSWORD}
    for told in ({**certified, "cert_file": mine}, {**known, **secret}):
        async with broker(told) as node:
            await node.publish([message(1)])
            assert bodies(await take(await node.subscribe(TOPIC, told["url"]), 1)) == [1]
    with pytest.raises(ConfigError, match="trusted"):
        await broker(known, **secret, ca_file=str(server.folder / "another-ca.pem")).__aenter__()
    plain = known["url"].replace("kafka+ssl:", "kafka:")
    nameless = f"kafka://127.0.0.1:{server.ports['SASL_PLAINTEXT']}"
    for url in (options["url"].replace("kafka:", "kafka+ssl:"), plain, nameless):
        with pytest.raises(Unavailable, match=r"perhaps it wants TLS|in time"):
            await broker(options, url=url, timeout_s=1).__aenter__()


async def test_who_may_do_nothing_is_told_what_to_grant(options: dict[str, Any], server: kafka.Kafka) -> None:
    url = f"kafka://{kafka.NOBODY}:{kafka.PASSWORD.replace(' ', '%20')}@127.0.0.1:{server.ports['SASL_PLAINTEXT']}"
    async with broker(options, url=url) as node:
        with pytest.raises(Unavailable, match="access lists"):
            await node.publish([message(1)])
        with pytest.raises(ConfigError, match="may not read or make the topic"):
            await node.subscribe(TOPIC, GROUP)


async def test_a_server_that_is_away_or_mute_is_unavailable_soon(options: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="no server answers"):
        await broker(options, url=f"kafka://127.0.0.1:{free_port()}").__aenter__()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="in time"):
            await broker(options, url=f"kafka://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.5).__aenter__()
        assert time.monotonic() - begun < 3


async def test_one_of_several_servers_is_enough(options: dict[str, Any]) -> None:
    url = options["url"].replace("kafka://", f"kafka://127.0.0.1:{free_port()},")
    async with broker(options, url=url) as node:
        await node.publish([message(1)])
        assert bodies(await take(await node.subscribe(TOPIC, GROUP), 1)) == [1]


async def test_topics_are_made_as_told_and_those_that_are_there_stay(options: dict[str, Any]) -> None:
    name = options["topic_prefix"] + TOPIC
    async with (
        broker(options, partitions=5, retention_days=2, max_message_bytes=3_000_000) as node,
        broker(options, partitions=2) as other,
        started_client(AIOKafkaAdminClient(**servers(options))) as admin,
    ):
        await asyncio.gather(node.publish([message(1)]), node.subscribe(TOPIC, GROUP))
        await other.publish([message(2)])
        (topic,) = await admin.describe_topics([name])
        assert len(topic["partitions"]) == 5
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        told = {row[0]: row[1] for row in answer.resources[0][4]}
        assert told["retention.ms"] == str(2 * 24 * 3600 * 1000)
        assert int(told["max.message.bytes"]) >= 3_000_000
        await node.publish([message(3, topic=dead_topic(TOPIC))])
        (topic,) = await admin.describe_topics([dead_topic(name)])
        assert len(topic["partitions"]) == 1
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, dead_topic(name))])
        assert {row[0]: row[1] for row in answer.resources[0][4]}["retention.ms"] == "-1", "until somebody looks"


async def test_a_topic_that_cannot_be_made_is_told(options: dict[str, Any]) -> None:
    async with broker(options, replication=50) as node:
        with pytest.raises(ConfigError, match="replication"):
            await node.subscribe(TOPIC, GROUP)
        with pytest.raises(Unavailable, match=r"as broker\.options say"):
            await node.publish([message(1)])
    long = {**options, "topic_prefix": "x" * 300}
    async with broker(long) as node:
        with pytest.raises(ConfigError, match="InvalidTopic"):
            await node.subscribe(TOPIC, GROUP)


async def test_a_race_for_a_new_topic_has_no_loser(options: dict[str, Any]) -> None:
    async with broker(options) as one, broker(options) as two:
        await asyncio.gather(*(node.publish([message(1)]) for node in (one, two)))
        assert len(await take(await one.subscribe(TOPIC, GROUP), 2)) == 2


async def test_an_oversized_message_is_refused_for_good_and_nothing_goes_with_it(options: dict[str, Any]) -> None:
    long = Message(TOPIC, "1.2.3", b"x" * 5000)
    async with broker(options, max_message_bytes=4000) as node:
        with pytest.raises(PluginError, match="max_message_bytes") as refusal:
            await node.publish([message(1), long])
        assert not isinstance(refusal.value, Unavailable)
        assert (await node.lag(TOPIC, GROUP)).messages == 0
        await node.publish([message(2)])
        # The topic is of the smaller length by now, so it is the server that refuses.
        noise = bytes(byte for number in range(200_000) for byte in (number * 2654435761 % 2**32).to_bytes(4))
        async with broker(options, compression="none") as hopeful:
            with pytest.raises(PluginError, match="longer than the servers take") as refusal:
                await hopeful.publish([Message(TOPIC, "1.2.3", noise)])
            assert not isinstance(refusal.value, Unavailable)
            await hopeful.publish([message(3)])
        assert bodies(await take(await node.subscribe(TOPIC, GROUP), 2)) == [2, 3]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_and_no_idempotence(options: dict[str, Any], compression: str) -> None:
    async with broker(options, compression=compression, idempotent=False, linger_ms=1) as node:
        await node.publish([message(number) for number in range(30)])
        await asyncio.gather(*(node.publish([message(number)]) for number in (30, 31)))
        taken = bodies(await take(await node.subscribe(TOPIC, GROUP), 32))
        assert taken[:30] == list(range(30))
        assert set(taken[30:]) == {30, 31}


async def test_what_others_write_kills_nobody(options: dict[str, Any]) -> None:
    name = options["topic_prefix"] + TOPIC
    async with broker(options, partitions=1) as node:
        await node.publish([message(1)])
        writer = AIOKafkaProducer(**servers(options), transactional_id=name)
        async with started_client(writer) as stranger, stranger.transaction():
            await stranger.send(name, key=b"\xff\xfe", value=b"not JSON")
            await stranger.send(name, key=None, value=b"{}", headers=[("kind", b"\x00")])
            await stranger.send(name, key=b"tombstone", value=None)
        async with asyncio.timeout(10):  # until the mark of the transaction is there, which is a fifth
            while (await node.lag(TOPIC, GROUP)).messages < 5:
                await asyncio.sleep(0.02)
        await node.publish([message(2)])
        subscription = await node.subscribe(TOPIC, GROUP)
        taken = await take(subscription, 5)
        assert [delivery.message.body for delivery in taken] == [b"1", b"not JSON", b"{}", b"", b"2"]
        assert [delivery.message.key for delivery in taken] == ["1.2.3", "\\xff\\xfe", "", "tombstone", "1.2.3"]
        await subscription.ack(taken)
        assert (await node.lag(TOPIC, GROUP)).messages == 0, "the mark of the transaction is nothing to wait for"


async def test_keys_keep_their_order_and_spread(options: dict[str, Any]) -> None:
    async with broker(options, partitions=7) as node:
        sent = [message(number, key=str(number % 20)) for number in range(2000)]
        for start in range(0, 2000, 500):
            await node.publish(sent[start : start + 500])
        taken = await take(await node.subscribe(TOPIC, GROUP), 2000)
        assert len({delivery.position & 0xFFFF for delivery in taken}) > 3
        for key in {one.key for one in sent}:
            mine = [delivery for delivery in taken if delivery.message.key == key]
            assert bodies(mine) == sorted(bodies(mine))
            assert [delivery.position for delivery in mine] == sorted(delivery.position for delivery in mine)


async def test_what_was_acknowledged_in_any_order_outlives_the_process(options: dict[str, Any]) -> None:
    async with broker(options) as node:
        await node.publish([message(number) for number in range(100)])
        subscription = await node.subscribe(TOPIC, GROUP)
        taken = await take(subscription, 100)
        await subscription.ack(taken[50:60])
        await subscription.ack(taken[:3])
        await subscription.ack([taken[7], taken[99]])
    left = [number for number in range(100) if number >= 3 and number not in (7, 99, *range(50, 60))]
    async with broker(options) as node:
        assert (await node.lag(TOPIC, GROUP)).messages == len(left)
        subscription = await node.subscribe(TOPIC, GROUP)
        again = await take(subscription, len(left))
        assert bodies(again) == left
        assert all(delivery.redelivered for delivery in again)
        await subscription.ack(again)
        await node.publish([message(100)])
        assert bodies(await take(subscription, 1)) == [100]


async def test_more_holes_than_there_is_room_for_come_again(options: dict[str, Any]) -> None:
    async with broker(options, partitions=1) as node:
        await node.publish([message(number) for number in range(4000)])
        subscription = await node.subscribe(TOPIC, GROUP)
        taken = await take(subscription, 4000)
        await subscription.ack(taken[1::2])
        assert 2000 < (await node.lag(TOPIC, GROUP)).messages < 3500
        await subscription.ack(taken[::2])
        assert (await node.lag(TOPIC, GROUP)).messages == 0


async def test_a_lag_is_told_to_strangers(options: dict[str, Any]) -> None:
    async with broker(options) as node, broker(options) as stranger:
        assert (await stranger.lag(TOPIC, GROUP)).messages == 0
        await node.publish([message(number, key=str(number)) for number in range(20)])
        await asyncio.sleep(0.3)
        subscription = await node.subscribe(TOPIC, GROUP)
        taken = await take(subscription, 20)
        lag = await stranger.lag(TOPIC, GROUP)
        assert lag.messages == 20
        assert 0.3 <= lag.oldest_s < 20
        await subscription.ack(taken[5:])
        begun = time.monotonic()
        assert (await stranger.lag(TOPIC, GROUP)).messages == 5
        assert time.monotonic() - begun < 1
        await subscription.ack(taken[:5])
        assert await stranger.lag(TOPIC, GROUP) == await stranger.lag("no such topic", GROUP)
        async with started_client(AIOKafkaAdminClient(**servers(options))) as admin:
            names = await admin.list_topics()
            assert options["topic_prefix"] + "no such topic".replace(" ", "_20_") not in names


async def test_two_share_a_topic_and_one_who_leaves_is_replaced(options: dict[str, Any]) -> None:
    async with broker(options, partitions=4) as one:
        mine = await one.subscribe(TOPIC, GROUP)
        async with broker(options) as two:
            yours = await two.subscribe(TOPIC, GROUP)
            await one.publish([message(number, key=str(number)) for number in range(100)])
            here, there = set[int](), set[int]()

            async def work(subscription: Subscription, done: set[int]) -> None:
                while True:
                    deliveries = await subscription.take(10)
                    await subscription.ack(deliveries)
                    done |= set(bodies(deliveries))

            working = [asyncio.create_task(work(mine, here)), asyncio.create_task(work(yours, there))]
            async with asyncio.timeout(20):
                while here | there != set(range(100)):
                    await asyncio.sleep(0.02)
            assert here
            assert there
            assert not here & there
            working[1].cancel()
            await asyncio.gather(working[1], return_exceptions=True)
        await one.publish([message(number, key=str(number)) for number in range(100, 150)])
        async with asyncio.timeout(20):
            while not here >= set(range(100, 150)):
                await asyncio.sleep(0.02)
        working[0].cancel()
        await asyncio.gather(*working, return_exceptions=True)
        assert (await one.lag(TOPIC, GROUP)).messages == 0


async def test_a_new_member_waits_for_the_batch_in_hand(options: dict[str, Any]) -> None:
    told = {**options, "session_s": 1.5}
    async with broker(told, handover_s=20) as one, broker(told) as two:
        mine = await one.subscribe(TOPIC, GROUP)
        await one.publish([message(number, key=str(number)) for number in range(30)])
        in_hand = await take(mine, 30)
        joining = asyncio.create_task(two.subscribe(TOPIC, GROUP))
        await asyncio.sleep(1)  # the first has heard of the second by now
        await mine.ack(in_hand)
        yours = await joining
        await one.publish([message(30, key=str(number)) for number in range(30)])
        waiting = [asyncio.create_task(take(subscription, 1)) for subscription in (mine, yours)]
        done, _ = await asyncio.wait(waiting, timeout=20, return_when=asyncio.ALL_COMPLETED)
        assert [bodies(task.result()) for task in done] == [[30], [30]], "nothing that was in hand came to the other"


async def test_what_the_servers_deleted_is_told_and_the_rest_comes(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = options["topic_prefix"] + TOPIC
    async with broker(options, partitions=1) as node:
        await node.publish([message(number) for number in range(10)])
        subscription = await node.subscribe(TOPIC, GROUP)
        await subscription.ack((await take(subscription, 10))[:2])
    async with started_client(AIOKafkaAdminClient(**servers(options))) as admin:
        await admin.delete_records({TopicPartition(name, 0): RecordsToDelete(before_offset=6)})
    async with broker(options, partitions=1) as node:
        with caplog.at_level(logging.ERROR, "dicomnode.kafka"):
            subscription = await node.subscribe(TOPIC, GROUP)
            assert bodies(await take(subscription, 4)) == [6, 7, 8, 9]
        assert "messages.expired: 4" in caplog.text
        assert (await node.lag(TOPIC, GROUP)).messages == 4


async def test_a_topic_that_was_made_anew_begins_anew(options: dict[str, Any]) -> None:
    name = options["topic_prefix"] + TOPIC
    async with broker(options, partitions=1) as node:
        await node.publish([message(number) for number in range(10)])
        subscription = await node.subscribe(TOPIC, GROUP)
        await subscription.ack(await take(subscription, 10))
    async with started_client(AIOKafkaAdminClient(**servers(options))) as admin:
        await admin.delete_topics([name])
    async with broker(options, partitions=1) as node:
        async with asyncio.timeout(10):
            while True:
                try:
                    await node.publish([message(77)])
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)
        assert bodies(await take(await node.subscribe(TOPIC, GROUP), 1)) == [77]


async def test_other_tools_find_the_groups_and_the_messages(options: dict[str, Any]) -> None:
    name = options["topic_prefix"] + TOPIC
    async with broker(options, partitions=1, group_prefix="site.") as node:
        await node.publish([message(7, key="1.2.840")])
        subscription = await node.subscribe(TOPIC, GROUP)
        await subscription.ack(await take(subscription, 1))
        reader = AIOKafkaConsumer(name, **servers(options), auto_offset_reset="earliest")
        async with started_client(reader), started_client(AIOKafkaAdminClient(**servers(options))) as admin:
            record = await asyncio.wait_for(reader.getone(), 10)
            assert (record.key, record.value) == (b"1.2.840", b"7")
            offsets = await admin.list_consumer_group_offsets(f"site.{GROUP}.{name}")
            assert offsets[TopicPartition(name, 0)].offset == 1


async def test_nothing_of_a_message_is_logged_however_much_is_asked_for(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with broker(options, compression="none") as node:
            subscription = await node.subscribe(TOPIC, GROUP)
            await node.publish([Message(TOPIC, "1.2.3", b"CANARY^PATIENT")])
            await subscription.ack(await take(subscription, 1))
    assert "CANARY" not in caplog.text + "".join(capsys.readouterr())
