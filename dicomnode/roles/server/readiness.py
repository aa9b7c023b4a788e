"""Whether a process can do its work: each backend is asked whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import msgspec

from dicomnode import metrics
from dicomnode.errors import NodeError
from dicomnode.ports.cache import Cache
from dicomnode.ports.coming import Coming

_PING_S = 5.0


class Answering(Protocol):
    """What can be asked whether it answers."""

    async def ping(self) -> None:
        """Return when it does. Raises: NodeError."""


async def readiness(backends: Mapping[str, Answering], *, started: bool = True) -> tuple[int, bytes]:
    """Return an HTTP status and JSON that names each backend and its problem.

    503 when one does not answer that work cannot go on without, or while the doors are not open yet.
    """
    problems = dict(zip(backends, await asyncio.gather(*map(_ping, backends.values())), strict=True))
    for name, problem in problems.items():
        metrics.BACKEND_UP.labels(name).set(not problem)
    needed = [problem for name, problem in problems.items() if not isinstance(backends[name], Cache | Coming)]
    ready = started and not any(needed)
    told = {
        "status": ("degraded" if any(problems.values()) else "ready") if ready else "not ready",
        "backends": {name: {"up": not problem, "problem": problem} for name, problem in problems.items()},
    }
    return 200 if ready else 503, msgspec.json.encode(told)


async def _ping(backend: Answering) -> str:
    try:
        async with asyncio.timeout(_PING_S):
            await backend.ping()
    except TimeoutError:
        return f"no answer within {_PING_S:g} s"
    except NodeError as error:
        return str(error)
    return ""
