"""What Prometheus is told. No label holds a UID, an AE title or anything of a patient."""

from __future__ import annotations

import time
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_LONG = (*_SECONDS, 60.0, 600.0)

ASSOCIATIONS = Counter(
    "dicomnode_associations_total", "Associations by how they ended.", ["outcome"], registry=REGISTRY
)
ASSOCIATIONS_OPEN = Gauge("dicomnode_associations_open_count", "Associations open now.", registry=REGISTRY)
INSTANCES = Counter(
    "dicomnode_instances_stored_total",
    "Objects received, by door and outcome.",
    ["door", "outcome"],
    registry=REGISTRY,
)
STORED_BYTES = Counter("dicomnode_stored_bytes_total", "Bytes of objects kept.", registry=REGISTRY)
INGEST_SECONDS = Histogram(
    "dicomnode_ingest_seconds",
    "From the last byte received to durable and announced.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
INDEXED = Counter("dicomnode_instances_indexed_total", "Objects indexed, by fate.", ["fate"], registry=REGISTRY)
REPRESENTED = Counter(
    "dicomnode_instances_converted_total",
    "Objects for viewers that were converted, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
RECORDED = Counter("dicomnode_rows_recorded_total", "Rows given to the warehouse.", ["table"], registry=REGISTRY)
ACCESS_LOST = Counter(
    "dicomnode_access_log_lost_total", "Requests answered and not in the access log.", registry=REGISTRY
)
QUEUE_LAG = Gauge("dicomnode_queue_lag_messages", "Messages not worked on.", ["topic", "group"], registry=REGISTRY)
QUEUE_AGE = Gauge("dicomnode_queue_oldest_seconds", "Age of the oldest of them.", ["topic", "group"], registry=REGISTRY)
HANDLER_SECONDS = Histogram(
    "dicomnode_handler_seconds",
    "Time in a service for one request or batch, waits for its peer included.",
    ["service"],
    buckets=_LONG,
    registry=REGISTRY,
)
HANDLER_FAILURES = Counter(
    "dicomnode_handler_failures_total",
    "Failures of a service, by error class.",
    ["service", "error"],
    registry=REGISTRY,
)
HTTP_REQUESTS = Counter(
    "dicomnode_http_requests_total", "HTTP requests.", ["route", "method", "status"], registry=REGISTRY
)
STORAGE_FREE = Gauge("dicomnode_storage_free_bytes", "Bytes that the storage can still take.", registry=REGISTRY)
STORAGE_LOW = Gauge(
    "dicomnode_storage_low", "Whether less is free than storescp.limits.storage_free.", registry=REGISTRY
)
OUTBOX_FREE = Gauge(
    "dicomnode_outbox_free_bytes", "Bytes that the log before the broker can still take.", registry=REGISTRY
)
OUTBOX_LOW = Gauge(
    "dicomnode_outbox_low", "Whether so little of it is free that senders are refused.", registry=REGISTRY
)
BACKEND_UP = Gauge("dicomnode_backend_up", "Whether a backend answered its last ping.", ["port"], registry=REGISTRY)
COMMITMENTS = Counter(
    "dicomnode_commitments_total", "Requests for storage commitment, by how they ended.", ["outcome"], registry=REGISTRY
)
TASKS = Gauge("dicomnode_asyncio_tasks_count", "Tasks of the event loop now.", registry=REGISTRY)
DEAD_LETTERS = Counter("dicomnode_dead_letters_total", "Messages given up.", ["topic"], registry=REGISTRY)


class handling:  # noqa: N801 -- a context manager, read as a verb
    """Measure the time in a service, and count what escapes from it by its class. Being cancelled is no failure."""

    __slots__ = ("_service", "_started")

    def __init__(self, service: str) -> None:
        self._service = service
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        HANDLER_SECONDS.labels(self._service).observe(time.perf_counter() - self._started)
        if isinstance(error, Exception):
            failed(self._service, error)


def failed(service: str, error: Exception) -> None:
    """Count a failure of a service whose error does not go on to `handling`."""
    HANDLER_FAILURES.labels(service, type(error).__name__).inc()


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
