"""Operations of the DIMSE door, measured by the service that they ask for."""

from __future__ import annotations

from contextlib import aclosing

from dicomnode import metrics
from dicomnode.dimse.responder import Operation, Operations, Replies, Request
from dicomnode.dimse.service import COMMIT, GET, MOVE, MPPS, service_of

# What has another name, or more than one, on the wire.
_SERVICES = {MOVE: "retrieve", GET: "retrieve", COMMIT: "commitment", MPPS: "performed"}


def measured(operations: Operations) -> Operations:
    """Return the same operations, the time of each request being measured."""
    return {
        name: _measured(_SERVICES.get(service_of(name[1]), service_of(name[1])), operations[name])
        for name in operations
    }


def _measured(service: str, operation: Operation) -> Operation:
    async def measured(request: Request) -> Replies:
        with metrics.handling(service):
            async with aclosing(operation(request)) as replies:
                async for reply in replies:
                    yield reply

    return measured
