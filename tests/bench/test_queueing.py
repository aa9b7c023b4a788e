"""The simulation against what queueing theory knows exactly."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.queueing import Outage, Plant, Traffic, percentiles, serve, simulate

_COUNT = 200_000
PLANT = Plant(storescps=4, partitions=12, consumers=4, receive_s=0.001, index_s=0.0002, index_batch_s=0.005)


def poisson(rate: float, chance: random.Random) -> list[float]:
    return list(accumulate(chance.expovariate(rate) for _ in range(_COUNT)))


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_one_at_a_time_with_exponential_service_is_m_m_1(load: float) -> None:
    chance = random.Random(7)
    arrivals = poisson(load, chance)
    done, busy, _ = serve(arrivals, 1, lambda _: chance.expovariate(1.0))
    mean = sum(end - came for came, end in zip(arrivals, done, strict=True)) / _COUNT
    assert mean == pytest.approx(1 / (1 - load), rel=0.1)
    assert busy / done[-1] == pytest.approx(load, rel=0.05)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_with_constant_service_it_is_m_d_1(load: float) -> None:
    arrivals = poisson(load, random.Random(8))
    done, _, _ = serve(arrivals, 1, lambda _: 1.0)
    mean = sum(end - came for came, end in zip(arrivals, done, strict=True)) / _COUNT
    assert mean == pytest.approx(1 + load / (2 * (1 - load)), rel=0.1)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=200).map(sorted),
    st.integers(1, 50),
    st.floats(0.001, 1),
    st.floats(0.0001, 0.1),
)
def test_batches_keep_the_order_and_serve_everybody(
    arrivals: list[float], batch: int, fixed: float, each: float
) -> None:
    done, busy, most = serve(arrivals, batch, lambda count: fixed + count * each)
    assert len(done) == len(arrivals)
    assert done == sorted(done)
    assert all(end >= came + fixed + each - 1e-9 for came, end in zip(arrivals, done, strict=True))
    assert 1 <= most <= len(arrivals)
    batches = round((busy - len(arrivals) * each) / fixed)
    assert batches >= len(arrivals) / batch


def test_a_batch_lingers_until_it_is_full() -> None:
    arrivals = [0.0, 0.02, 0.04, 0.5]
    done, busy, most = serve(arrivals, 3, lambda _: 0.001, linger_s=0.1)
    assert done == pytest.approx([0.041, 0.041, 0.041, 0.601])
    assert busy == pytest.approx(0.002)
    assert most == 3


def test_in_an_outage_nothing_is_done_and_afterwards_everything() -> None:
    arrivals = [float(number) for number in range(100)]
    done, _, most = serve(arrivals, 500, lambda count: 0.001 * count, outage=Outage(10, 60))
    assert not [end for end in done if 10.1 < end < 60]
    assert most == 51
    assert len(done) == 100


def test_more_consumers_do_not_index_later() -> None:
    traffic = Traffic(instances_per_s=2000)
    few = simulate(traffic, PLANT, 60, seed=1)
    many = simulate(traffic, Plant(4, 12, 12, 0.001, 0.0002, 0.005), 60, seed=1)
    assert many.instances == few.instances
    assert many.consumer_busy < few.consumer_busy
    assert many.searchable[2] <= few.searchable[2]


def test_more_consumers_than_partitions_bring_nothing() -> None:
    traffic = Traffic(instances_per_s=2000)
    as_many, more = (simulate(traffic, Plant(4, 4, count, 0.001, 0.0002, 0.005), 60, seed=1) for count in (4, 16))
    assert more.searchable == as_many.searchable


def test_the_same_seed_gives_the_same_result() -> None:
    traffic = Traffic(instances_per_s=500)
    assert simulate(traffic, PLANT, 20, seed=3) == simulate(traffic, PLANT, 20, seed=3)
    assert simulate(traffic, PLANT, 20, seed=3) != simulate(traffic, PLANT, 20, seed=4)


def test_percentiles() -> None:
    assert percentiles([]) == (0, 0, 0)
    assert percentiles([float(number) for number in range(101)]) == (50, 99, 100)
