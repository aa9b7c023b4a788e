"""The log before a broker elsewhere: emptied in order, kept while nobody answers, never held up by one message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from dicomnode import metrics
from dicomnode.backends import cancelled
from dicomnode.config import OutboxTable
from dicomnode.errors import Full
from dicomnode.model.messages import ACCESS_QUEUE, LOG_QUEUE, RELAY_GROUP, RELAYED, DeadLetter, dead_topic
from dicomnode.ports.broker import Message
from dicomnode.roles import worker
from dicomnode.roles.outbox import Outbox
from dicomnode.services.measure import Measure
from dicomnode.services.relay import Relay
from dicomnode.services.watermark import Watermark
from dicomnode_memory.storage import MemoryStorage
from dicomnode_sqlite.broker import Options, SqliteBroker
from tests.distant import LONGEST, DistantBroker, distant

MOST = 32 * 1024 * 1024


@asynccontextmanager
async def opened(folder: Path, broker: DistantBroker) -> AsyncIterator[tuple[SqliteBroker, Outbox]]:
    """Have a log in `folder` that is emptied into `broker`, whose every topic somebody reads."""
    for topic in RELAYED:
        await broker.behind.subscribe(topic, "reader")
    async with SqliteBroker(Options(path=str(folder / "outbox.sqlite"), most_bytes=MOST), folder) as log:
        relay = Relay(log, broker, MemoryStorage(MemoryStorage.Options(), folder))
        table = OutboxTable(batch=50)
        async with Outbox(table, log, relay, Watermark(log, MOST // 10, "outbox")) as role:
            task = asyncio.create_task(role.run())
            try:
                yield log, role
            finally:
                await cancelled(task)


async def came(broker: DistantBroker, topic: str) -> list[bytes]:
    if not (await broker.behind.lag(topic, "reader")).messages:
        return []
    subscription = await broker.behind.subscribe(topic, "reader")
    return [delivery.message.body for delivery in await subscription.take(100_000)]


def told(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def test_every_topic_of_the_doors_is_handed_on_in_order(tmp_path: Path) -> None:
    broker = distant(tmp_path)
    async with opened(tmp_path, broker) as (log, role):
        for number in range(500):
            await log.publish([Message(topic, "k", b"%d" % number) for topic in (LOG_QUEUE, ACCESS_QUEUE)])
        assert await role.flush(20) == 0
    for topic in (LOG_QUEUE, ACCESS_QUEUE):
        assert await came(broker, topic) == [b"%d" % number for number in range(500)]


async def test_while_nobody_answers_it_is_kept_and_measured_and_then_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_FIRST_WAIT_S", 0.01)
    broker = distant(tmp_path)
    broker.away = True
    async with opened(tmp_path, broker) as (log, role):
        for number in range(20):
            await log.publish([Message(LOG_QUEUE, "k", b"%d" % number)])
        assert await role.flush(0.05) == 20
        await Measure(broker, (), Measure(log, Outbox.queues)).refresh()
        assert told("dicomnode_queue_lag_messages", topic=LOG_QUEUE, group=RELAY_GROUP) == 20
        assert told("dicomnode_queue_oldest_seconds", topic=LOG_QUEUE, group=RELAY_GROUP) > 0
        assert 0 < told("dicomnode_outbox_free_bytes") < MOST
        broker.away = False
        assert await role.flush(20) == 0
    assert await came(broker, LOG_QUEUE) == [b"%d" % number for number in range(20)]


async def test_what_was_left_is_handed_on_after_a_restart(tmp_path: Path) -> None:
    broker = distant(tmp_path)
    broker.away = True
    async with opened(tmp_path, broker) as (log, _):
        for number in range(20):
            await log.publish([Message(LOG_QUEUE, "k", b"%d" % number)])
    assert await came(broker, LOG_QUEUE) == []
    broker.away = False
    async with opened(tmp_path, broker) as (_, role):
        assert await role.flush(20) == 0
    assert await came(broker, LOG_QUEUE) == [b"%d" % number for number in range(20)]


async def test_what_the_broker_will_never_take_holds_up_nobody_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_FIRST_WAIT_S", 0.001)
    broker = distant(tmp_path)
    before = told("dicomnode_dead_letters_total", topic=LOG_QUEUE)
    async with opened(tmp_path, broker) as (log, role):
        bodies = [b"1", bytes(LONGEST + 1), b"2"]
        await log.publish([Message(LOG_QUEUE, "k", body) for body in bodies])
        assert await role.flush(20) == 0
        assert (await log.lag(dead_topic(LOG_QUEUE), RELAY_GROUP)).messages == 1
    assert list(dict.fromkeys(await came(broker, LOG_QUEUE))) == [b"1", b"2"]
    assert told("dicomnode_dead_letters_total", topic=LOG_QUEUE) == before + 1
    async with SqliteBroker(Options(path=str(tmp_path / "outbox.sqlite")), tmp_path) as log:
        (letter,) = await (await log.subscribe(dead_topic(LOG_QUEUE), RELAY_GROUP)).take(10)
    kept = msgspec.json.decode(letter.message.body, type=DeadLetter)
    assert (kept.topic, len(kept.body), kept.error) == (
        LOG_QUEUE,
        LONGEST + 1,
        "BadRequest: the message is too long",
    )


async def test_a_full_log_with_such_a_message_at_its_head_empties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was filled while the broker was away; there must be room for what is laid aside."""
    monkeypatch.setattr(worker, "_FIRST_WAIT_S", 0.001)
    broker = distant(tmp_path)
    broker.away = True
    async with opened(tmp_path, broker) as (log, role):
        await log.publish([Message(LOG_QUEUE, "k", bytes(LONGEST + 1))])
        published = [await _fill(log, size) for size in (500_000, 5000, 100)]
        broker.away = False
        assert await role.flush(30) == 0
        assert (await log.lag(dead_topic(LOG_QUEUE), RELAY_GROUP)).messages == 1
    assert len(await came(broker, LOG_QUEUE)) >= sum(published)


async def _fill(log: SqliteBroker, size: int) -> int:
    """Publish until there is no room for messages of this size; return how many there was room for."""
    count = 0
    try:
        while True:
            await log.publish([Message(LOG_QUEUE, "k", bytes(size))])
            count += 1
    except Full:
        return count


async def test_the_watermark_is_low_before_it_is_full(tmp_path: Path) -> None:
    broker = distant(tmp_path)
    broker.away = True
    async with opened(tmp_path, broker) as (log, role):
        mark = Watermark(object(), 1, also=role.watermark)
        assert not mark.low
        while not mark.low:
            await log.publish([Message(LOG_QUEUE, "k", bytes(500_000))])
            await role.watermark.look()
        assert told("dicomnode_outbox_low") == 1
        await log.publish([Message(LOG_QUEUE, "k", bytes(500_000))])
        broker.away = False
        assert await role.flush(30) == 0
        await role.watermark.look()
        assert not mark.low
