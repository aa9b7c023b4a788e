from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from dicomnode import metrics
from dicomnode.dimse import status
from dicomnode.dimse.command import C_FIND_RQ, C_MOVE_RQ, N_ACTION_RQ, N_CREATE_RQ
from dicomnode.dimse.responder import Reply, Request
from dicomnode.roles.storescp.measured import measured

_SERVICES = {
    (C_FIND_RQ, "1.2.840.10008.5.1.4.1.2.2.1"): "find",
    (C_FIND_RQ, "1.2.840.10008.5.1.4.31"): "worklist",
    (C_MOVE_RQ, "1.2.840.10008.5.1.4.1.2.2.2"): "retrieve",
    (N_ACTION_RQ, "1.2.840.10008.1.20.1"): "commitment",
    (N_CREATE_RQ, "1.2.840.10008.3.1.2.3.3"): "performed",
}
ANY = cast("Request", None)


def handled(service: str) -> float:
    return metrics.REGISTRY.get_sample_value("dicomnode_handler_seconds_count", {"service": service}) or 0.0


class Twice:
    """An operation of two replies that tells whether it came to its end."""

    ended = False

    async def __call__(self, request: Request) -> AsyncGenerator[Reply, None]:
        try:
            yield Reply(status.PENDING)
            yield Reply(status.SUCCESS)
        finally:
            self.ended = True


@pytest.mark.parametrize(("name", "service"), _SERVICES.items())
async def test_each_operation_is_measured_as_its_service(name: tuple[int, str], service: str) -> None:
    before = handled(service)
    operation: Any = measured({name: Twice()})[name]
    assert [reply.status async for reply in operation(ANY)] == [status.PENDING, status.SUCCESS]
    assert handled(service) == before + 1


async def test_an_operation_that_nobody_waits_for_any_more_is_closed() -> None:
    twice = Twice()
    name = (C_FIND_RQ, "1.2.840.10008.5.1.4.1.2.2.1")
    before = handled("find")
    replies = measured({name: twice})[name](ANY)
    await anext(replies)
    await replies.aclose()
    assert twice.ended
    assert handled("find") == before + 1
