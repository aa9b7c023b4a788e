from __future__ import annotations

import pytest

from bench.figures import Figure, Taken, Unit, absolute, latencies, ratio


def taken(contestant: str, number: int, value: float, unit: Unit = "inst/s") -> Taken:
    return Taken("m", contestant, "tmpfs", number, Figure("row", unit, value))


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    rounds = [(100.0, 50.0), (300.0, 100.0), (90.0, 10.0)]
    results = [one for n, (a, b) in enumerate(rounds) for one in (taken("node", n, a), taken("orthanc", n, b))]
    assert ratio(results, "row", "orthanc") == 3.0
    assert absolute(results, "row", "node") == 100.0


def test_a_shorter_time_is_the_better_one() -> None:
    results = [taken("node", 1, 2.0, "s"), taken("orthanc", 1, 8.0, "s")]
    assert ratio(results, "row", "orthanc") == 4.0


def test_a_round_without_a_pair_gives_no_ratio() -> None:
    results = [taken("node", 1, 2.0), taken("orthanc", 2, 1.0)]
    assert ratio(results, "row", "orthanc") is None
    assert absolute(results, "row", "dcmtk") is None


def test_latencies_are_in_milliseconds() -> None:
    p50, p95 = latencies([n / 1000 for n in range(1, 102)])
    assert p50 == pytest.approx(51)
    assert p95 == pytest.approx(96)
    assert latencies([0.25]) == (250, 250)
