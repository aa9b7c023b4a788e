"""A simulation of the pipeline's queues: storescp processes, partitions by study, consumers that work in batches.

Times in seconds. What is simulated is who waits for whom, not the machines: service times are those that were measured
on one core. It is checked against what queueing theory knows exactly (tests/bench/test_queueing.py).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from math import inf, log

import msgspec

Service = Callable[[int], float]


class Traffic(msgspec.Struct, frozen=True):
    """Studies that come at random, so many instances a second in all; each over one association, at `pace` a second.

    The number of instances of a study is log-normal with mean `study` and shape `spread`: most are small, some large.
    """

    instances_per_s: float
    study: float = 300.0
    spread: float = 1.2
    pace: float = 50.0
    most: int = 10_000


class Plant(msgspec.Struct, frozen=True):
    """How many of each, and what each costs: seconds of one core an instance, and a batch."""

    storescps: int
    partitions: int
    consumers: int
    receive_s: float
    index_s: float
    index_batch_s: float
    batch: int = 500
    linger_s: float = 0.1
    relay_s: float = 0.02


class Outage(msgspec.Struct, frozen=True):
    """No consumer works from `start` until `end`: the database is away."""

    start: float
    end: float


class Outcome(msgspec.Struct, frozen=True):
    """What came of it: delays from the last byte sent to acknowledged, and to searchable; how busy the busiest was."""

    instances: int
    acknowledged: tuple[float, ...]
    searchable: tuple[float, ...]
    storescp_busy: float
    consumer_busy: float
    most_waiting: int
    settled_s: float


def simulate(traffic: Traffic, plant: Plant, seconds: float, seed: int, outage: Outage | None = None) -> Outcome:
    """Return what happens to the traffic of `seconds`. Same seed, same result."""
    chance = random.Random(seed)
    sent = sorted(_sent(traffic, plant.partitions, seconds, chance))
    acknowledged, storescp_busy = _received(sent, plant, seconds)
    queued = sorted(
        (done + chance.uniform(0, plant.relay_s), came, partition)
        for (came, partition, _), done in zip(sent, acknowledged, strict=True)
    )
    indexed, consumer_busy, most_waiting = _indexed(queued, plant, seconds, outage)
    delays = sorted(done - came for done, came in indexed)
    return Outcome(
        len(sent),
        percentiles(sorted(done - came for (came, _, _), done in zip(sent, acknowledged, strict=True))),
        percentiles(delays),
        storescp_busy,
        consumer_busy,
        most_waiting,
        max((done for done, _ in indexed), default=0.0),
    )


def percentiles(ordered: Sequence[float]) -> tuple[float, ...]:
    """Return the median, the 99th percentile and the greatest of values in order; zeros of none."""
    if not ordered:
        return 0.0, 0.0, 0.0
    last = len(ordered) - 1
    return ordered[last // 2], ordered[round(last * 0.99)], ordered[last]


def _sent(traffic: Traffic, partitions: int, seconds: float, chance: random.Random) -> Iterable[tuple[float, int, int]]:
    """Yield when each instance has arrived, the partition of its study, and the study's number.

    Studies that began earlier are under way at the beginning.
    """
    # The mean of a log-normal distribution is exp(mu + sigma^2 / 2).
    mu = log(traffic.study) - traffic.spread**2 / 2
    now, number = -traffic.most / traffic.pace, 0
    while (now := now + chance.expovariate(traffic.instances_per_s / traffic.study)) < seconds:
        number += 1
        partition = chance.randrange(partitions)
        size = min(traffic.most, max(1, round(chance.lognormvariate(mu, traffic.spread))))
        for instance in range(size):
            at = now + instance / traffic.pace
            if 0 <= at < seconds:
                yield at, partition, number


def _received(sent: Sequence[tuple[float, int, int]], plant: Plant, seconds: float) -> tuple[list[float], float]:
    """Return when each instance is acknowledged: a study goes to the process with the fewest open ones."""
    free = [0.0] * plant.storescps
    busy = [0.0] * plant.storescps
    place: dict[int, int] = {}
    open_at = [0] * plant.storescps
    ends: list[tuple[float, int]] = []
    last = {study: at for at, _, study in sent}
    done = []
    for at, _, study in sent:
        while ends and ends[0][0] < at:
            open_at[heapq.heappop(ends)[1]] -= 1
        if study not in place:
            place[study] = min(range(plant.storescps), key=open_at.__getitem__)
            open_at[place[study]] += 1
            heapq.heappush(ends, (last[study], place[study]))
        where = place[study]
        free[where] = max(free[where], at) + plant.receive_s
        busy[where] += plant.receive_s
        done.append(free[where])
    return done, max(busy) / max(seconds, *free)


def _indexed(
    queued: Sequence[tuple[float, float, int]], plant: Plant, seconds: float, outage: Outage | None
) -> tuple[list[tuple[float, float]], float, int]:
    """Return (searchable, sent) of each instance, how busy the busiest consumer was, and the most that waited."""
    results: list[tuple[float, float]] = []
    busiest, most = 0.0, 0
    shares: list[list[tuple[float, float]]] = [[] for _ in range(plant.consumers)]
    for at, came, partition in queued:
        shares[partition % plant.consumers].append((at, came))
    for share in shares:
        arrivals = [at for at, _ in share]
        done, busy, waiting = serve(
            arrivals,
            plant.batch,
            lambda count: plant.index_batch_s + count * plant.index_s,
            linger_s=plant.linger_s,
            outage=outage,
        )
        results.extend((end, came) for end, (_, came) in zip(done, share, strict=True))
        busiest, most = max(busiest, busy / max(seconds, done[-1] if done else 0.0)), max(most, waiting)
    return results, busiest, most


def serve(
    arrivals: Sequence[float], batch: int, service: Service, *, linger_s: float = 0.0, outage: Outage | None = None
) -> tuple[list[float], float, int]:
    """Serve `arrivals`, in order, up to `batch` of those that wait at a time, `service(count)` seconds for each batch.

    A batch that is not full waits up to `linger_s` for more. Returns when each is done, the seconds of work, and the
    most that waited at the start of a batch.
    """
    done: list[float] = []
    free, busy, most, begin = 0.0, 0.0, 0, 0
    waiting_to = 0
    while begin < len(arrivals):
        start = max(free, arrivals[begin])
        full = arrivals[begin + batch - 1] if begin + batch <= len(arrivals) else inf
        start = max(start, min(full, arrivals[begin] + linger_s))
        if outage and outage.start <= start < outage.end:
            start = outage.end
        waiting_to = max(waiting_to, begin)
        while waiting_to < len(arrivals) and arrivals[waiting_to] <= start:
            waiting_to += 1
        most = max(most, waiting_to - begin)
        count = min(batch, waiting_to - begin)
        took = service(count)
        free, busy = start + took, busy + took
        done.extend([free] * count)
        begin += count
    return done, busy, most
