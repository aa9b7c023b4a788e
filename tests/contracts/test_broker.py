"""What every broker promises: at least once, in order per key, and nothing of what was withdrawn."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Barrier, Broker, Carrier, Delivery, Message, Overlap, Remote, Subscription
from tests.contracts.conftest import make

TOPIC, GROUP = "storage_queue", "consumer"


def message(number: int, key: str = "1.2.3", topic: str = TOPIC) -> Message:
    return Message(topic, key, str(number).encode())


def bodies(deliveries: list[Delivery] | Any) -> list[int]:
    return [int(delivery.message.body) for delivery in deliveries]


async def take_all(subscription: Subscription, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    while len(taken) < count:
        taken.extend(await asyncio.wait_for(subscription.take(1000), 10))
    return taken


async def nothing_comes(subscription: Subscription, quiet_s: float = 0.05) -> bool:
    try:
        await asyncio.wait_for(subscription.take(1), quiet_s)
    except TimeoutError:
        return True
    return False


def quiet_s(broker: Broker) -> float:
    """Return for how long nothing comes where nothing more is to come: what runs elsewhere may take its time."""
    return 0.4 if isinstance(broker, Remote) else 0.05


async def test_messages_arrive_in_order(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    await broker.publish([message(0), message(1)])
    await broker.publish([message(2)])
    taken = await take_all(subscription, 3)
    assert bodies(taken) == [0, 1, 2]
    assert taken[0].message == message(0)
    positions = [delivery.position for delivery in taken]
    assert positions == sorted(set(positions))
    # Where several processes work, who was given a message and did not acknowledge it may not be known.
    assert isinstance(broker, Remote) or not any(delivery.redelivered for delivery in taken)
    await subscription.ack(taken)
    assert await nothing_comes(subscription, quiet_s(broker))


async def test_take_gives_no_more_than_asked_and_the_rest_later(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    await broker.publish([message(number) for number in range(10)])
    # What comes over a network need not come all at once.
    assert bodies(await subscription.take(4, 5.0 if isinstance(broker, Remote) else 0.0)) == [0, 1, 2, 3]
    assert bodies(await subscription.take(4, 5.0)) == [4, 5, 6, 7]
    assert bodies(await subscription.take(4, quiet_s(broker) if isinstance(broker, Remote) else 0.001)) == [8, 9]
    with pytest.raises(ValueError, match="at least one"):
        await subscription.take(0)


async def test_take_waits_for_a_message(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    taking = asyncio.create_task(subscription.take(10))
    await asyncio.sleep(0.01)
    assert not taking.done()
    await broker.publish([message(1)])
    assert bodies(await asyncio.wait_for(taking, 10)) == [1]


async def test_a_cancelled_take_loses_nothing(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    taking = asyncio.create_task(subscription.take(10, 30))
    await broker.publish([message(1)])
    await asyncio.sleep(0.01)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert bodies(await subscription.take(10)) == [1]


async def test_a_full_batch_does_not_linger(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    taking = asyncio.create_task(subscription.take(3, 3600))
    for number in range(3):
        await broker.publish([message(number)])
    assert bodies(await asyncio.wait_for(taking, 10)) == [0, 1, 2]


async def test_every_group_gets_everything(broker: Broker) -> None:
    one, two = await broker.subscribe(TOPIC, "one"), await broker.subscribe(TOPIC, "two")
    await broker.publish([message(1), message(2)])
    await one.ack(await take_all(one, 2))
    assert bodies(await take_all(two, 2)) == [1, 2]
    assert (await broker.lag(TOPIC, "one")).messages == 0
    assert (await broker.lag(TOPIC, "two")).messages == 2


async def test_a_group_gets_what_was_published_after_it_came(broker: Broker) -> None:
    early = await broker.subscribe(TOPIC, "early")
    await broker.publish([message(1)])
    late = await broker.subscribe(TOPIC, "late")
    await broker.publish([message(2)])
    assert bodies(await take_all(early, 2)) == [1, 2]
    came = bodies(await take_all(late, 1))
    if isinstance(broker, Remote):  # it may keep messages for groups to come
        while came[-1] != 2:
            came += bodies(await take_all(late, 1))
        assert came in ([2], [1, 2])
    else:
        assert came == [2]


async def test_topics_are_apart(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    other = await broker.subscribe("other", GROUP)
    await broker.publish([message(1), message(2, topic="other"), message(3, topic="nobody's")])
    assert bodies(await take_all(subscription, 1)) == [1]
    assert bodies(await take_all(other, 1)) == [2]


async def test_what_was_not_acknowledged_comes_again(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    await broker.publish([message(number) for number in range(6)])
    taken = await take_all(subscription, 6)
    await subscription.ack([taken[1], taken[4]])  # not the first: the others must not be lost behind them
    again = await broker.subscribe(TOPIC, GROUP)
    came = await take_all(again, 4)
    assert bodies(came) == [0, 2, 3, 5]
    assert all(delivery.redelivered for delivery in came)
    await again.ack(came)
    await again.ack(came)
    assert await nothing_comes(await broker.subscribe(TOPIC, GROUP), quiet_s(broker))


async def test_an_earlier_subscription_gives_nothing_more(broker: Broker) -> None:
    earlier = await broker.subscribe(TOPIC, GROUP)
    waiting = asyncio.create_task(earlier.take(1))
    await asyncio.sleep(0)
    later = await broker.subscribe(TOPIC, GROUP)
    with pytest.raises(Unavailable):
        await waiting
    await broker.publish([message(1)])
    assert bodies(await later.take(1)) == [1]


async def test_lag(broker: Broker) -> None:
    assert (await broker.lag(TOPIC, GROUP)).messages == 0
    subscription = await broker.subscribe(TOPIC, GROUP)
    await broker.publish([message(1), message(2)])
    await asyncio.sleep(0.01)
    lag = await broker.lag(TOPIC, GROUP)
    assert lag.messages == 2
    assert 0 < lag.oldest_s < 30
    taken = await take_all(subscription, 2)
    assert (await broker.lag(TOPIC, GROUP)).messages == 2
    await subscription.ack(taken[:1])
    assert (await broker.lag(TOPIC, GROUP)).messages == 1
    await subscription.ack(taken[1:])
    assert (await broker.lag(TOPIC, GROUP)).messages == 0


async def test_many_publishers_at_once_lose_nothing(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)

    async def publisher(start: int) -> None:
        for number in range(start, start + 50):
            await broker.publish([message(number, key=str(start))])

    publishing = [asyncio.create_task(publisher(start)) for start in range(0, 400, 50)]
    taken: list[Delivery] = []
    while len(taken) < 400:
        some = list(await asyncio.wait_for(subscription.take(100, 0.005), 10))
        await subscription.ack(some)
        taken.extend(some)
    await asyncio.gather(*publishing)
    assert sorted(bodies(taken)) == list(range(400))
    for start in range(0, 400, 50):
        mine = bodies(delivery for delivery in taken if delivery.message.key == str(start))
        assert mine == sorted(mine)


async def test_ping(broker: Broker) -> None:
    await broker.ping()
    assert (await broker.lag("never heard of", "nobody")).messages == 0


def overlapping(broker: Broker) -> Overlap:
    if not isinstance(broker, Overlap):
        pytest.skip("publish_beside was not tested: the broker has none")
    return broker


async def test_beside_is_delivered_only_after_the_effect(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    release = asyncio.Event()
    publishing = asyncio.create_task(overlapping(broker).publish_beside([message(1)], release.wait()))
    await asyncio.sleep(0.02)
    assert await nothing_comes(subscription)
    assert not publishing.done()
    release.set()
    await publishing
    assert bodies(await subscription.take(1)) == [1]


async def test_beside_is_withdrawn_when_the_effect_fails(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)

    async def failing() -> None:
        await asyncio.sleep(0.005)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await overlapping(broker).publish_beside([message(1)], failing())
    assert (await broker.lag(TOPIC, GROUP)).messages == 0
    assert await nothing_comes(subscription)
    assert await nothing_comes(await broker.subscribe(TOPIC, GROUP))


async def test_beside_is_withdrawn_when_it_is_cancelled(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    publishing = asyncio.create_task(overlapping(broker).publish_beside([message(1)], asyncio.Event().wait()))
    await asyncio.sleep(0.005)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    await broker.publish([message(2)])
    assert bodies(await take_all(subscription, 1)) == [2]
    assert bodies(await take_all(await broker.subscribe(TOPIC, GROUP), 1)) == [2]


async def test_beside_runs_the_effect_also_where_nobody_listens(broker: Broker) -> None:
    done = []

    async def effect() -> None:
        done.append(1)

    await overlapping(broker).publish_beside([message(1, topic="nobody's")], effect())
    assert done == [1]


async def test_a_subscription_while_effects_run_gets_their_messages_once(broker: Broker) -> None:
    await broker.subscribe(TOPIC, GROUP)
    release = asyncio.Event()
    publishing = [
        asyncio.create_task(overlapping(broker).publish_beside([message(number)], release.wait()))
        for number in range(3)
    ]
    await asyncio.sleep(0.01)
    again = await broker.subscribe(TOPIC, GROUP)
    late = await broker.subscribe(TOPIC, "late")
    release.set()
    await asyncio.gather(*publishing)
    assert sorted(bodies(await take_all(again, 3))) == [0, 1, 2]
    assert sorted(bodies(await take_all(late, 3))) == [0, 1, 2]
    assert await nothing_comes(again)


def barrier(broker: Broker) -> Barrier:
    if not isinstance(broker, Barrier):
        pytest.skip("settled was not tested: the broker has none")
    return broker


async def settles(waiting: asyncio.Task[None]) -> bool:
    for _ in range(20):
        await asyncio.sleep(0)
    return waiting.done()


async def test_settled_at_once_where_there_is_nothing_to_wait_for(broker: Broker) -> None:
    await asyncio.wait_for(barrier(broker).settled(TOPIC, GROUP), 5)
    subscription = await broker.subscribe(TOPIC, GROUP)
    await asyncio.wait_for(barrier(broker).settled(TOPIC, GROUP), 5)
    await broker.publish([message(1)])
    await asyncio.wait_for(barrier(broker).settled(TOPIC, "another"), 5)
    await subscription.ack(await subscription.take(1))
    await asyncio.wait_for(barrier(broker).settled(TOPIC, GROUP), 5)


async def test_settled_waits_for_what_came_before_and_not_for_what_comes_after(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    await broker.publish([message(1), message(2)])
    waiting = asyncio.create_task(barrier(broker).settled(TOPIC, GROUP))
    first, second = await take_all(subscription, 2)
    await broker.publish([message(3)])
    await subscription.ack([second])
    assert not await settles(waiting)
    await subscription.ack([first])
    await asyncio.wait_for(waiting, 5)
    assert bodies(await subscription.take(1)) == [3]


async def test_settled_cuts_the_linger_short(broker: Broker) -> None:
    barrier(broker)
    subscription = await broker.subscribe(TOPIC, GROUP)

    async def work() -> None:
        while True:
            await subscription.ack(await subscription.take(100, 3600))

    working = asyncio.create_task(work())
    for number in range(3):
        await broker.publish([message(number)])
        await asyncio.sleep(0.005)
        await asyncio.wait_for(barrier(broker).settled(TOPIC, GROUP), 10)
        assert (await broker.lag(TOPIC, GROUP)).messages == 0
    working.cancel()


async def test_a_cancelled_wait_leaves_the_others(broker: Broker) -> None:
    subscription = await broker.subscribe(TOPIC, GROUP)
    await broker.publish([message(1)])
    one, two = (asyncio.create_task(barrier(broker).settled(TOPIC, GROUP)) for _ in range(2))
    assert not await settles(one)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    await subscription.ack(await subscription.take(1))
    await asyncio.wait_for(two, 5)


class Redelivery(RuleBasedStateMachine):
    """Publish, take, acknowledge out of order, subscribe again, in any order: all comes until its ack, never after."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.broker: Broker = make("broker", self.name, Path(self.folder.name))
        self.run(self.broker.__aenter__())
        self.subscription: Subscription = self.run(self.broker.subscribe(TOPIC, GROUP))
        self.waiting: list[int] = []
        self.taken: list[Delivery] = []
        self.number = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        numbers = list(range(self.number, self.number + count))
        self.number += count
        self.run(self.broker.publish([message(number) for number in numbers]))
        self.waiting += numbers

    @rule()
    def fail_beside(self) -> None:
        async def failing() -> None:
            raise OSError("no")

        if isinstance(self.broker, Overlap):
            with pytest.raises(OSError, match="no"):
                self.run(self.broker.publish_beside([message(-1)], failing()))

    @precondition(lambda self: self.waiting)
    @rule(most=st.integers(1, 7))
    def take(self, most: int) -> None:
        got = list(self.run(self.subscription.take(most)))
        assert bodies(got) == self.waiting[: len(got)]
        assert 0 < len(got) <= most
        del self.waiting[: len(got)]
        self.taken += got

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.taken), unique_by=lambda delivery: delivery.position))
        self.run(self.subscription.ack(some))
        self.taken = [delivery for delivery in self.taken if delivery not in some]

    @rule()
    def subscribe_again(self) -> None:
        self.subscription = self.run(self.broker.subscribe(TOPIC, GROUP))
        self.waiting = sorted([*bodies(self.taken), *self.waiting])
        self.taken = []

    @invariant()
    def lag_is_what_is_left(self) -> None:
        assert self.run(self.broker.lag(TOPIC, GROUP)).messages == len(self.waiting) + len(self.taken)

    def teardown(self) -> None:
        self.run(self.broker.__aexit__(None, None, None))
        self.runner.close()
        self.folder.cleanup()


def test_redelivery(broker_name: str, tmp_path: Path) -> None:
    machine = type("Redelivery", (Redelivery,), {"name": broker_name})
    examples = 8 if isinstance(make("broker", broker_name, tmp_path), Remote) else 25
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))


async def test_what_came_with_a_message_is_there_until_it_is_acknowledged(broker: Broker) -> None:
    if not isinstance(broker, Carrier):
        pytest.skip("the broker carries nothing: no Carrier")
    one, two = await broker.subscribe(TOPIC, GROUP), await broker.subscribe(TOPIC, "two")
    await broker.publish_laden([message(1), message(1, topic="nobody's")], [b"by", bytearray(b"te"), memoryview(b"s")])
    await broker.publish([message(2)])
    laden, empty = await take_all(one, 2)
    assert (laden.laden, empty.laden) == (True, False)
    assert await broker.cargo(laden) == b"bytes"
    assert await broker.cargo(empty) is None
    await one.ack([laden, empty])
    assert await broker.cargo(laden) == b"bytes", "another group still wants it"
    again, _ = await take_all(two, 2)
    assert again.laden
    await two.ack([again])
    assert await broker.cargo(again) is None


async def test_what_came_with_a_message_comes_again_with_it(broker: Broker) -> None:
    if not isinstance(broker, Carrier):
        pytest.skip("the broker carries nothing: no Carrier")
    await take_nothing(await broker.subscribe(TOPIC, GROUP))
    await broker.publish_laden([message(1)], [b"bytes"])
    (delivery,) = await take_all(await broker.subscribe(TOPIC, GROUP), 1)
    assert (delivery.redelivered, delivery.laden) == (True, True)
    assert await broker.cargo(delivery) == b"bytes"


async def test_only_who_works_here_and_keeps_up_is_sent_bytes(broker: Broker) -> None:
    if not isinstance(broker, Carrier):
        pytest.skip("the broker carries nothing: no Carrier")
    assert not broker.carries(TOPIC, GROUP)
    with pytest.raises(Unavailable):
        await broker.publish_laden([message(1)], [b"lost"])
    subscription = await broker.subscribe(TOPIC, GROUP)
    assert broker.carries(TOPIC, GROUP)
    assert not broker.carries(TOPIC, "another")
    sent = 0
    while broker.carries(TOPIC, GROUP):
        await broker.publish([message(number) for number in range(100)])
        sent += 100
        assert sent < 100_000, "what is kept with messages has no bound"
    await subscription.ack(await take_all(subscription, sent))
    assert broker.carries(TOPIC, GROUP)


async def take_nothing(subscription: Subscription) -> None:
    assert await nothing_comes(subscription)
