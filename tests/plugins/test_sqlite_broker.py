"""What is peculiar to the broker's file: restarts, backlogs longer than memory, files that cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from dicomnode.errors import ConfigError, Full, Unavailable
from dicomnode.ports.broker import Delivery, Message
from dicomnode_sqlite import subscription as subscription_module
from dicomnode_sqlite.broker import Options, SqliteBroker

TOPIC, GROUP = "storage_queue", "consumer"


def message(number: int, size: int = 0) -> Message:
    return Message(TOPIC, "1.2.3", str(number).encode().ljust(size))


def bodies(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.message.body) for delivery in deliveries]


def broker(folder: Path) -> SqliteBroker:
    return SqliteBroker(Options(), folder)


async def test_after_a_restart_the_unacknowledged_come_again_and_no_others(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        one = await queue.subscribe(TOPIC, GROUP)
        await queue.subscribe(TOPIC, "other")
        await queue.publish([message(number) for number in range(6)])
        taken = list(await one.take(6))
        await one.ack([taken[0], taken[5], taken[2]])
    async with broker(tmp_path) as queue:
        assert (await queue.lag(TOPIC, GROUP)).messages == 3
        assert (await queue.lag(TOPIC, "other")).messages == 6
        one = await queue.subscribe(TOPIC, GROUP)
        again = list(await one.take(10))
        assert bodies(again) == [1, 3, 4]
        assert all(delivery.redelivered for delivery in again)
        await one.ack(again)
        await queue.publish([message(6)])
        (fresh,) = await one.take(10)
        assert not fresh.redelivered
        assert fresh.position > taken[5].position
        await one.ack([fresh])
        other = await queue.subscribe(TOPIC, "other")
        assert bodies(list(await other.take(10))) == list(range(7))


async def test_positions_rise_also_when_all_was_acknowledged_before_the_restart(tmp_path: Path) -> None:
    last = 0
    for number in range(3):
        async with broker(tmp_path) as queue:
            subscription = await queue.subscribe(TOPIC, GROUP)
            await queue.publish([message(number)])
            (delivery,) = await subscription.take(1)
            assert delivery.position > last
            last = delivery.position
            await subscription.ack([delivery])


async def test_acknowledged_by_all_is_deleted(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        one, two = await queue.subscribe(TOPIC, "one"), await queue.subscribe(TOPIC, "two")
        await queue.publish([message(number) for number in range(5)])
        await one.ack(await one.take(5))
        await two.ack((await two.take(5))[1:])
    with sqlite3.connect(tmp_path / "broker.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM acknowledged").fetchone() == (1,)
    connection.close()


async def test_a_topic_nobody_subscribed_to_keeps_nothing(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        await queue.publish([message(1)])
        subscription = await queue.subscribe(TOPIC, GROUP)
        await queue.publish([message(2)])
        assert bodies(list(await subscription.take(10))) == [2]


async def test_a_backlog_longer_than_memory_is_read_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "READY_MESSAGES", 10)
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        for start in range(0, 100, 5):
            await queue.publish([message(number) for number in range(start, start + 5)])
        assert (await queue.lag(TOPIC, GROUP)).messages == 100
        waiting = asyncio.create_task(queue.settled(TOPIC, GROUP))
        taken: list[Delivery] = []
        while len(taken) < 100:
            assert not waiting.done()
            some = list(await subscription.take(7, 3600))
            await queue.publish([message(1000)])
            await subscription.ack(some)
            taken.extend(some)
        assert bodies(taken)[:100] == list(range(100))
        assert not any(delivery.redelivered for delivery in taken)
        await asyncio.wait_for(waiting, 10)


async def test_large_messages_are_not_all_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "READY_BYTES", 10_000)
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        await queue.publish([message(number, 4000) for number in range(20)])
        taken: list[Delivery] = []
        while len(taken) < 20:
            some = list(await subscription.take(20))
            assert len(some) <= 4
            taken.extend(some)
        assert bodies(taken) == list(range(20))


async def test_one_that_cannot_be_kept_does_not_spoil_the_others(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        bad = Message(TOPIC, "\ud800", b"0")
        done = await asyncio.gather(
            queue.publish([message(1)]), queue.publish([bad]), queue.publish([message(2)]), return_exceptions=True
        )
        assert [type(result) for result in done] == [type(None), Unavailable, type(None)]
        assert bodies(list(await subscription.take(10))) == [1, 2]


async def test_a_full_disk_is_told_and_nothing_is_published(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        connection = queue._journal._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
        with pytest.raises(Full):
            await queue.publish([message(1, 20_000_000)])  # more than what is free within the file
        connection.execute("PRAGMA max_page_count = 100000").fetchall()
        await queue.publish([message(2)])
        assert bodies(list(await subscription.take(10))) == [2]


async def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode_sqlite.connect._BUSY_S", 0.01)
    async with broker(tmp_path):
        with pytest.raises(Unavailable, match="in use"):
            async with broker(tmp_path):
                pass


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "broker.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"broker\.options\.path.*damaged"):
        async with broker(tmp_path):
            pass
    with pytest.raises(ConfigError, match="cannot be opened"):
        async with SqliteBroker(Options(path=str(tmp_path / "no" / "folder")), tmp_path):
            pass


async def test_a_newer_or_foreign_file_is_refused(tmp_path: Path) -> None:
    async with broker(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "broker.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer"):
        async with broker(tmp_path):
            pass
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE something (x)")
    foreign.close()
    with pytest.raises(ConfigError, match="something else"):
        async with SqliteBroker(Options(path=str(tmp_path / "foreign.sqlite")), tmp_path):
            pass


async def test_closed_is_unavailable(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        taking = asyncio.create_task(subscription.take(1))
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await taking
    with pytest.raises(Unavailable):
        await queue.ping()


async def test_bytes_survive_a_restart_with_their_message(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        await queue.subscribe(TOPIC, GROUP)
        await queue.publish_laden([message(0)], [b"by", b"tes"])
        await queue.publish([message(1)])
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        laden, empty = await subscription.take(10)
        assert (laden.laden, laden.redelivered, empty.laden) == (True, True, False)
        assert await queue.cargo(laden) == b"bytes"
        await subscription.ack([laden, empty])
        assert await queue.cargo(laden) is None


async def test_a_file_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        await queue.subscribe(TOPIC, GROUP)
        await queue.publish([message(0)])
    connection = sqlite3.connect(tmp_path / "broker.sqlite", isolation_level=None)
    connection.executescript(
        "ALTER TABLE message DROP COLUMN cargo; ALTER TABLE topic DROP COLUMN sure; PRAGMA user_version = 1"
    )
    connection.close()
    for _ in range(2):
        async with broker(tmp_path) as queue:
            subscription = await queue.subscribe(TOPIC, GROUP)
            (delivery,) = await subscription.take(10)
            assert bodies([delivery]) == [0]
            assert not delivery.laden
    async with broker(tmp_path) as queue:
        await queue.publish_laden([message(1)], [b"bytes"])


async def test_the_log_is_folded_before_it_grows(tmp_path: Path) -> None:
    """The log is as long as it may become from the start; what goes through it may be far more."""
    log, longest = tmp_path / "broker.sqlite-wal", 0
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        before = log.stat().st_size
        for number in range(4000):
            await queue.publish_laden([message(number, 2000)], [bytes(12_000)])
            if number % 100 == 99:
                await subscription.ack(await subscription.take(100))
            longest = max(longest, log.stat().st_size)
    assert longest <= max(2 * before, 32 * 1024 * 1024)


async def test_what_waits_for_no_disk_carries_nothing(tmp_path: Path) -> None:
    async with SqliteBroker(Options(fsync="never"), tmp_path) as queue:
        await queue.subscribe(TOPIC, GROUP)
        assert not queue.carries(TOPIC, GROUP)


async def publish_until_full(queue: SqliteBroker) -> int:
    for number in range(1000):
        try:
            await queue.publish([message(number, 100_000)])
        except Full:
            return number
    raise AssertionError("it never was full")


async def test_the_file_becomes_no_longer_than_it_may(tmp_path: Path) -> None:
    most = 24 * 1024 * 1024
    async with SqliteBroker(Options(most_bytes=most), tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        assert 0.9 * most < await queue.free_bytes() <= most
        published = await publish_until_full(queue)
        assert 240 < published < 252
        assert await queue.free_bytes() < 1024 * 1024
        with pytest.raises(Full, match="most_bytes"):
            await queue.ping()
        taken: list[Delivery] = []
        while len(taken) < published:
            taken.extend(await subscription.take(100))
        assert bodies(taken) == list(range(published)), "nothing of what was refused, all of what was not"
        await subscription.ack(taken)
        assert await queue.free_bytes() > 0.9 * most
        await queue.ping()
        await queue.publish([message(1, 100_000)])
    assert (tmp_path / "broker.sqlite").stat().st_size <= most


async def test_without_a_bound_the_disk_is_the_bound(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        assert await queue.free_bytes() > 0


async def _left(folder: Path) -> list[tuple[int, bool, bool]]:
    async with broker(folder) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        found = await subscription.take(100)
        return [(int(one.message.body), one.redelivered, one.doubtful) for one in found]


async def test_after_a_crash_only_what_may_not_have_been_done_is_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the file is what a crash would leave."""
    monkeypatch.setattr("dicomnode_sqlite.broker._NOTED_EVERY_S", 0.0)
    done = asyncio.Event()
    async with broker(tmp_path) as queue:
        subscription = await queue.subscribe(TOPIC, GROUP)
        await queue.publish([message(0)])
        queue._quickness = type(queue._quickness)(0)  # both at once
        under_way = asyncio.create_task(queue.publish_beside([message(1)], done.wait()))
        while not queue._topics[TOPIC].held:
            await asyncio.sleep(0)
        await queue.publish([message(2)])
        await queue.publish_laden([message(3)], [b"bytes"])
        await queue.publish([message(4)])
        assert not any(one.doubtful for one in await subscription.take(100)), "what came straight here is sure"
        await queue.ping()  # behind all that
        (tmp_path / "crash").mkdir()
        for name in ("broker.sqlite", "broker.sqlite-wal"):
            (tmp_path / "crash" / name).write_bytes((tmp_path / name).read_bytes())
        done.set()
        await under_way
    found = await _left(tmp_path / "crash")
    assert [number for number, _, _ in found] == [0, 1, 2, 3, 4]
    assert all(redelivered for _, redelivered, _ in found)
    assert [number for number, _, doubtful in found if doubtful] == [1, 2, 3, 4]


async def test_after_an_orderly_end_only_what_came_with_its_bytes_is_doubtful(tmp_path: Path) -> None:
    async with broker(tmp_path) as queue:
        await queue.subscribe(TOPIC, GROUP)
        for number in range(3):
            await queue.publish([message(number)])
        await queue.publish_laden([message(3)], [b"bytes"])
    for _ in range(2):
        assert await _left(tmp_path) == [(0, True, False), (1, True, False), (2, True, False), (3, True, True)]


async def test_what_could_not_be_withdrawn_stays_doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        monkeypatch.setattr(queue, "_order", refuse)
        raise OSError("no")

    async def refuse(order: object) -> object:
        raise Unavailable("sqlite", "away")

    async with broker(tmp_path) as queue:
        await queue.subscribe(TOPIC, GROUP)
        await queue.publish([message(0)])
        queue._quickness = type(queue._quickness)(0)  # both at once
        with pytest.raises(OSError, match="no"):
            await queue.publish_beside([message(1)], fail())
        monkeypatch.undo()
    assert await _left(tmp_path) == [(0, True, False), (1, True, True)]
