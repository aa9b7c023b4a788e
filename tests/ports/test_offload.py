from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence

import pytest

from dicomnode.ports.offload import Gatherer, Quickness, Threads


class Buffer(bytearray):
    """Something that can be referred to weakly."""


async def test_calls_run_in_other_threads_and_give_their_results() -> None:
    threads = Threads(3, "t")
    threads.start()
    assert await asyncio.gather(*(threads.run(pow, 2, number) for number in range(50))) == [2**n for n in range(50)]
    assert await threads.run(threading.get_ident) != threading.get_ident()
    await threads.close()


async def test_an_error_is_raised_to_the_caller() -> None:
    threads = Threads(1, "t")
    threads.start()
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    await threads.close()


async def test_cancellation_arrives_when_the_call_has_ended() -> None:
    threads = Threads(1, "t")
    threads.start()
    entered, leave, ended = threading.Event(), threading.Event(), []

    def slow() -> None:
        entered.set()
        leave.wait(30)
        ended.append(1)

    async def caller() -> None:
        await threads.run(slow)

    task = asyncio.create_task(caller())
    await asyncio.to_thread(entered.wait, 30)
    task.cancel()
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]
    await threads.close()


async def test_a_cancelled_call_that_fails_is_not_complained_about() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    threads = Threads(1, "t")
    threads.start()

    async def caller() -> None:
        await threads.run(divmod, 1, 0)

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await threads.close()
    assert complaints == []


async def test_closing_lets_what_was_handed_in_end() -> None:
    threads = Threads(2, "t")
    threads.start()
    calls = [threads.run(pow, 2, number) for number in range(100)]
    await threads.close()
    assert [call.result() for call in calls] == [2**number for number in range(100)]


async def test_closing_what_never_started() -> None:
    threads, gatherer = Threads(2, "t"), Gatherer(list, "g")
    await threads.close()
    await gatherer.close()
    assert threading.active_count() >= 1


async def test_a_thread_at_rest_holds_no_buffers() -> None:
    threads = Threads(1, "t")
    threads.start()
    buffer = Buffer(b"x")
    held = weakref.ref(buffer)
    assert await threads.run(len, buffer) == 1
    del buffer
    for _ in range(100):
        gc.collect()
        if held() is None:
            break
        await asyncio.sleep(0.01)
    assert held() is None
    await threads.close()


async def test_a_gatherer_hands_over_all_that_waits_at_once() -> None:
    entered, leave = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(items: list[int]) -> Sequence[object]:
        batches.append(items)
        entered.set()
        leave.wait(30)
        return [item * 2 for item in items]

    gatherer = Gatherer(work, "g")
    gatherer.start()
    first = gatherer.put(0)
    await asyncio.to_thread(entered.wait, 30)
    others = [gatherer.put(number) for number in range(1, 6)]
    leave.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
    assert batches == [[0], [1, 2, 3, 4, 5]]
    await gatherer.close()


async def test_a_gatherer_gives_each_its_own_error_or_all_the_same() -> None:
    def work(items: list[str]) -> Sequence[object]:
        if "spoil" in items:
            raise OSError("all")
        return [ValueError(item) if item == "bad" else item for item in items]

    gatherer = Gatherer(work, "g")
    gatherer.start()
    assert await gatherer.put("good") == "good"
    with pytest.raises(ValueError, match="bad"):
        await gatherer.put("bad")
    with pytest.raises(OSError, match="all"):
        await gatherer.put("spoil")
    last = gatherer.put("good")
    await gatherer.close()
    assert last.result() == "good"


def quick() -> Quickness:
    return Quickness(10.0)


def tries(quickness: Quickness) -> int:
    """Return how many calls go to threads before the next one is tried on the loop."""
    count = 0
    while not quickness.tried():
        count += 1
    return count


def test_one_stall_is_enough_and_each_failure_doubles_the_time_out() -> None:
    quickness = Quickness(0.000_1)
    assert quickness.likely
    for expected in (64, 128, 256):
        quickness.took(0.005)
        assert not quickness.likely
        assert tries(quickness) == expected
    for _ in range(1000):
        quickness.took(0.000_05)
    quickness.took(0.005)
    assert tries(quickness) == 64


def test_calls_that_are_slow_on_average_go_to_threads_nearly_always() -> None:
    quickness, on_loop = Quickness(0.000_1), 0
    for _ in range(20_000):
        if quickness.tried():
            on_loop += 1
            quickness.took(0.000_2)
    assert on_loop < 200


def test_quick_calls_stay_on_the_loop() -> None:
    quickness = Quickness(0.000_1)
    for _ in range(1000):
        assert quickness.tried()
        quickness.took(0.000_09)


def test_zero_is_never_quick() -> None:
    quickness = Quickness(0.0)
    assert not quickness.likely
    assert not any(quickness.tried() for _ in range(100))


async def test_quick_calls_are_made_on_the_loop_and_others_are_not() -> None:
    threads = Threads(1, "t")
    threads.start()
    here = threading.get_ident()
    assert await threads.run_quickly(Quickness(0.0), threading.get_ident) != here
    assert await threads.run_quickly(quick(), threading.get_ident) == here
    await threads.close()


async def test_an_error_of_a_quick_call_is_raised_to_the_caller() -> None:
    threads = Threads(1, "t")
    threads.start()
    call = threads.run_quickly(quick(), divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        await call
    await threads.close()


async def test_a_quick_item_never_overtakes_one_that_waits() -> None:
    leave, order = threading.Event(), list[tuple[object, int]]()

    def work(items: list[object]) -> Sequence[object]:
        if "slow" in items:
            leave.wait(30)
        order.extend((item, threading.get_ident()) for item in items)
        return [None] * len(items)

    gatherer = Gatherer(work, "g")
    gatherer.start()
    first, second = gatherer.put("slow"), gatherer.put_quickly(quick(), "behind")
    leave.set()
    await asyncio.gather(first, second)
    while gatherer.is_busy:
        await asyncio.sleep(0)
    await gatherer.put_quickly(quick(), "alone")
    assert [item for item, _ in order] == ["slow", "behind", "alone"]
    assert order[1][1] != threading.get_ident()
    assert order[2][1] == threading.get_ident()
    await gatherer.close()


async def test_an_error_among_quick_items_is_raised_to_who_awaits_it() -> None:
    gatherer = Gatherer(lambda items: [ValueError("no") if item else None for item in items], "g")
    gatherer.start()
    bad, good = gatherer.put_quickly(quick(), 1), gatherer.put_quickly(quick(), 0)
    with pytest.raises(ValueError, match="no"):
        await bad
    assert await good is None
    await gatherer.close()


async def test_quick_items_that_are_ready_together_are_worked_on_together() -> None:
    batches = list[list[object]]()

    def work(items: list[object]) -> Sequence[object]:
        batches.append(items)
        return items

    gatherer = Gatherer(work, "g")
    gatherer.start()
    quickness = quick()
    first, second = gatherer.put_quickly(quickness, 1), gatherer.put_quickly(quickness, 2)
    assert (await first, await second) == (1, 2)
    assert await gatherer.put_quickly(quickness, 3) == 3
    assert batches == [[1, 2], [3]]
    await gatherer.close()


async def test_what_is_put_behind_a_quick_item_does_not_overtake_it() -> None:
    order = list[object]()

    def work(items: list[object]) -> Sequence[object]:
        order.extend(items)
        return items

    gatherer = Gatherer(work, "g")
    gatherer.start()
    quickness = quick()
    await asyncio.gather(gatherer.put_quickly(quickness, 1), gatherer.put(2), gatherer.put_quickly(quickness, 3))
    assert order == [1, 2, 3]
    last = gatherer.put_quickly(quickness, 4)
    await gatherer.close()
    assert await last == 4
    assert order == [1, 2, 3, 4]


async def test_an_error_of_all_quick_items_is_raised_to_each() -> None:
    def work(items: list[object]) -> Sequence[object]:
        raise ValueError("no")

    gatherer = Gatherer(work, "g")
    gatherer.start()
    quickness = quick()
    calls = [gatherer.put_quickly(quickness, number) for number in range(3)]
    for call in calls:
        with pytest.raises(ValueError, match="no"):
            await call
    await gatherer.close()
