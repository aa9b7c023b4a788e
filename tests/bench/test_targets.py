from __future__ import annotations

from bench.figures import Figure, Taken
from bench.targets import TARGETS, Target, Verdict, verdicts


def test_a_target_is_judged_in_its_own_place_only() -> None:
    row = TARGETS[0].row
    results = [
        Taken("m", who, "tmpfs", 1, Figure(row, "inst/s", value)) for who, value in (("node", 30.0), ("orthanc", 10.0))
    ]
    judged = {one.where: one for one in verdicts(results, ["tmpfs", "disk"]) if one.target is TARGETS[0]}
    assert judged["tmpfs"].measured == 3.0
    assert judged["tmpfs"].met
    assert judged["disk"].measured is None
    assert not judged["disk"].met


def test_just_reaching_a_target_is_reaching_it() -> None:
    assert Verdict(Target("row", "orthanc", 2.0), "disk", 2.0).met
    assert not Verdict(Target("row", "orthanc", 2.0), "disk", 1.99).met
