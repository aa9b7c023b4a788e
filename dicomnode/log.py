"""Structured logging: fixed event names `noun.past`, facts as key-values, never patient data."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_NEVER = frozenset(
    {
        "patient_name",
        "patient_id",
        "birth_date",
        "patient_birth_date",
        "accession",
        "accession_number",
        "data_set",
    }
)


def set_up(style: str, level: str) -> None:
    """Send every log record of this process to stderr: as JSON, or for people (`auto`: by whether it is a terminal)."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    # The default would print the variables of each frame, and with them what is in an object.
    of_console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Processor = of_console if console else structlog.processors.JSONRenderer()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        drop_patient_data,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These speak of every request or quote what a peer sent; our own events say what an operator needs.
    for chatty in ("aiohttp.access", "pynetdicom", "pydicom", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    # It quotes the line of a request that is no HTTP, which may ask for a patient.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def drop_patient_data(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take the keys that could name a patient out of an event, whoever put them there."""
    for key in _NEVER & event.keys():
        del event[key]
    return event


def get(name: str) -> Any:
    """Return the logger of a room."""
    return structlog.stdlib.get_logger(name)
