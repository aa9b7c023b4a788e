from __future__ import annotations

from bench.capacity import LOADS, Costs, Load, Rules, check, need
from bench.queueing import Outage


def test_twice_the_load_needs_twice_the_processes() -> None:
    one = need(Load(5_000, 300_000, 10**8), Costs(), Rules())
    two = need(Load(10_000, 300_000, 10**8), Costs(), Rules())
    assert 2 * one.storescps - 2 <= two.storescps <= 2 * one.storescps
    assert 2 * one.consumers - 2 <= two.consumers <= 2 * one.consumers
    assert two.database_bytes == one.database_bytes


def test_nothing_stands_alone() -> None:
    small = need(Load(1, 10_000, 1_000), Costs(), Rules())
    assert min(small.storescps, small.consumers, small.recorders, small.machines, small.database_cores) == 2
    assert small.partitions >= small.consumers


def test_a_plant_of_the_model_keeps_up_in_the_simulation() -> None:
    load = LOADS[2]
    found = check(load, need(load, Costs(), Rules()), Costs(), 60)
    assert found.storescp_busy < 0.95
    assert found.consumer_busy < 0.95
    assert found.searchable[1] < 5


def test_it_catches_up_after_an_outage() -> None:
    load = LOADS[1]
    found = check(load, need(load, Costs(), Rules()), Costs(), 120, Outage(20, 60))
    assert found.settled_s < 180
    assert found.most_waiting > 100
