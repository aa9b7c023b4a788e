from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from structlog.testing import capture_logs

from dicomnode import metrics
from dicomnode.errors import Unavailable
from dicomnode.model.messages import DeadLetter
from dicomnode.ports.broker import Barrier, Delivery, Message
from dicomnode.roles import worker as module
from dicomnode.roles.worker import Pace, Unreadable, Worker, read_all
from dicomnode_memory.broker import MemoryBroker


class Hands:
    """A handler that fails as it is told, and remembers what it did."""

    def __init__(self, failing: Callable[[Delivery, int], Exception | None] = lambda *_: None) -> None:
        self.done: list[bytes] = []
        self.tries: dict[bytes, int] = {}
        self._failing = failing

    async def __call__(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            body = delivery.message.body
            self.tries[body] = self.tries.get(body, 0) + 1
            if error := self._failing(delivery, self.tries[body]):
                raise error
        self.done += [delivery.message.body for delivery in deliveries]


@asynccontextmanager
async def working(tmp_path: Path, hands: Hands, attempts: int = 3) -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        queue = await broker.subscribe("t", "g")
        await broker.subscribe("t.dead", "operator")
        task = asyncio.create_task(Worker(broker, queue, hands, Pace(10, 0.0, attempts), "t").run())
        try:
            yield broker
        finally:
            task.cancel()
            await asyncio.wait([task])


def failures(service: str, error: str) -> float:
    labels = {"service": service, "error": error}
    return metrics.REGISTRY.get_sample_value("dicomnode_handler_failures_total", labels) or 0.0


def handled(service: str) -> float:
    return metrics.REGISTRY.get_sample_value("dicomnode_handler_seconds_count", {"service": service}) or 0.0


async def _publish(broker: MemoryBroker, *bodies: bytes) -> None:
    assert isinstance(broker, Barrier)
    await broker.publish([Message("t", "k", body) for body in bodies])
    await asyncio.wait_for(broker.settled("t", "g"), 20)


async def test_everything_is_worked_on_once_and_acknowledged(tmp_path: Path) -> None:
    hands = Hands()
    async with working(tmp_path, hands) as broker:
        await _publish(broker, *(b"%d" % n for n in range(25)))
        assert (await broker.lag("t", "g")).messages == 0
    assert hands.done == [b"%d" % n for n in range(25)]


async def test_a_poison_message_is_laid_aside_and_stops_nobody(tmp_path: Path) -> None:
    hands = Hands(lambda delivery, _: ValueError("cannot be read") if delivery.message.body == b"bad" else None)
    async with working(tmp_path, hands) as broker:
        await _publish(broker, b"a", b"bad", b"c")
        (dead,) = await (await broker.subscribe("t.dead", "operator")).take(10)
    assert {b"a", b"c"} <= set(hands.done)
    assert b"bad" not in hands.done
    letter = msgspec.json.decode(dead.message.body, type=DeadLetter)
    assert (letter.topic, letter.body, letter.attempts) == ("t", "bad", 3)
    assert letter.error == "ValueError: cannot be read"


async def test_a_message_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    hands = Hands(lambda _, tries: ValueError("odd") if tries <= 2 else None)
    async with working(tmp_path, hands) as broker:
        await _publish(broker, b"a")
        assert (await broker.lag("t.dead", "operator")).messages == 0
    assert hands.done == [b"a"]


async def test_a_backend_that_is_away_is_waited_for(tmp_path: Path) -> None:
    hands = Hands(lambda _, tries: Unavailable("db", "away") if tries <= 5 else None)
    module_wait, module._FIRST_WAIT_S = module._FIRST_WAIT_S, 0.001
    try:
        async with working(tmp_path, hands, attempts=2) as broker:
            await _publish(broker, b"a")
            assert (await broker.lag("t.dead", "operator")).messages == 0
    finally:
        module._FIRST_WAIT_S = module_wait
    assert hands.done == [b"a"]


async def test_batches_are_measured_and_failures_counted_by_class(tmp_path: Path) -> None:
    hands = Hands(lambda _, tries: ValueError("odd") if tries <= 2 else None)
    before, seconds = failures("t", "ValueError"), handled("t")
    async with working(tmp_path, hands) as broker:
        await _publish(broker, b"a")
    assert failures("t", "ValueError") == before + 2
    assert handled("t") == seconds + 3


async def test_what_was_taken_and_not_finished_is_not_acknowledged(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def stuck(_: Sequence[Delivery]) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        queue = await broker.subscribe("t", "g")
        task = asyncio.create_task(Worker(broker, queue, stuck, Pace(10, 0.0, 3), "t").run())
        await broker.publish([Message("t", "k", b"a")])
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        await asyncio.wait([task])
        assert (await broker.lag("t", "g")).messages == 1


async def test_of_a_large_batch_the_one_at_fault_is_found_by_halves(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counted(Hands):
        async def __call__(self, deliveries: Sequence[Delivery]) -> None:
            calls.append(len(deliveries))
            await super().__call__(deliveries)

    hands = Counted(lambda delivery, _: ValueError("odd") if delivery.message.body == b"170" else None)
    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        queue = await broker.subscribe("t", "g")
        await broker.subscribe("t.dead", "operator")
        task = asyncio.create_task(Worker(broker, queue, hands, Pace(256, 0.0, 1), "t").run())
        with capture_logs():  # printing a traceback with such a batch takes its time
            await _publish(broker, *(b"%d" % n for n in range(256)))
        task.cancel()
        await asyncio.wait([task])
        assert (await broker.lag("t.dead", "operator")).messages == 1
    assert hands.done == [b"%d" % n for n in range(256) if n != 170]
    assert len(calls) == 17


async def test_what_is_unreadable_is_laid_aside_at_once_and_the_others_are_worked_on_once(tmp_path: Path) -> None:
    done: list[int] = []

    async def take(deliveries: Sequence[Delivery]) -> None:
        numbers, unreadable = read_all(deliveries, lambda delivery: int(delivery.message.body))
        done.extend(numbers)
        Unreadable.check(unreadable)

    async with MemoryBroker(MemoryBroker.Options(), tmp_path) as broker:
        queue = await broker.subscribe("t", "g")
        letters = await broker.subscribe("t.dead", "operator")
        task = asyncio.create_task(Worker(broker, queue, take, Pace(1000, 0.0, 5), "unread").run())
        started = asyncio.get_running_loop().time()
        await _publish(broker, *(b"%d" % n if n % 2 else b"no" for n in range(500)))
        took = asyncio.get_running_loop().time() - started
        task.cancel()
        await asyncio.wait([task])
        dead = await letters.take(1000)
    assert done == [n for n in range(500) if n % 2]
    assert len(dead) == 250
    letter = msgspec.json.decode(dead[0].message.body, type=DeadLetter)
    assert (letter.body, letter.attempts, letter.error.split(":")[0]) == ("no", 1, "ValueError")
    assert took < 5, "no message was waited for"
