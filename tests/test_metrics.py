from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from dicomnode import metrics
from dicomnode.errors import BadRequest, Unavailable


def failures(service: str, error: str) -> float:
    labels = {"service": service, "error": error}
    return metrics.REGISTRY.get_sample_value("dicomnode_handler_failures_total", labels) or 0.0


def handled(service: str) -> float:
    return metrics.REGISTRY.get_sample_value("dicomnode_handler_seconds_count", {"service": service}) or 0.0


def test_time_is_taken_of_what_succeeds_and_of_what_fails() -> None:
    with metrics.handling("tried"):
        pass
    with pytest.raises(BadRequest), metrics.handling("tried"):
        raise BadRequest("odd")
    assert (handled("tried"), failures("tried", "BadRequest")) == (2.0, 1.0)


def test_being_cancelled_is_no_failure() -> None:
    with pytest.raises(asyncio.CancelledError), metrics.handling("left"):
        raise asyncio.CancelledError
    assert (handled("left"), failures("left", "CancelledError")) == (1.0, 0.0)


def test_an_error_that_goes_no_further_is_counted() -> None:
    metrics.failed("told", Unavailable("index", "away"))
    assert failures("told", "Unavailable") == 1.0


def test_every_metric_that_is_declared_is_set_somewhere() -> None:
    declared = [name for name, value in vars(metrics).items() if isinstance(value, Counter | Gauge | Histogram)]
    assert len(declared) > 10
    package = Path(metrics.__file__).parent
    code = "".join(path.read_text() for path in package.rglob("*.py"))
    used = r"\b{0}\.(labels|inc|dec|set|observe)\b|\bmetrics\.{0}\b"
    assert [name for name in declared if not re.search(used.format(name), code)] == []
