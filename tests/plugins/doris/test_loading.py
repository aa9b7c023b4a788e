"""Stream loads: sent on to a backend, once under their label, and not to strangers.

No Doris is to be had here: what is tested is that we do our part, against a stand-in (tests/backends/serve_doris.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dicomnode.errors import BadRequest, Full, Unavailable
from dicomnode.model.warehouse import IMAGE, OBJECT
from dicomnode_doris.warehouse import DorisWarehouse, Options
from tests.backends import doris, started
from tests.backends.postgres import free_port
from tests.contracts.rows import image_row, object_row

FAR = Path("/nowhere")
ROWS = [object_row(number) for number in range(3)]
EXISTS = "Label Already Exists"


@pytest.fixture
def server() -> doris.Server:
    found = started.server("doris")
    if not isinstance(found, doris.Server):
        pytest.skip("what can go wrong with a load was not tested: a real Doris does not do it when it is asked to")
    return found


@asynccontextmanager
async def opened(server: doris.Server, **told: Any) -> AsyncIterator[DorisWarehouse]:
    options = doris.options("warehouse", server)
    async with DorisWarehouse(Options(**options | told), FAR) as warehouse:
        yield warehouse


async def held(warehouse: DorisWarehouse) -> int:
    return (await warehouse.counts())[OBJECT.name]


async def test_a_batch_that_comes_again_is_known_by_its_label(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        await warehouse.record(OBJECT, ROWS)
        began = time.monotonic()
        await warehouse.record(OBJECT, ROWS)
        assert time.monotonic() - began < 2.0, "what is finished is not waited for"
        await warehouse.record(OBJECT, list(reversed(ROWS)))
        assert await held(warehouse) == 3


async def test_an_answer_that_is_lost_is_no_loss(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        server.fail({"lose": True}, {"drop": True})  # the library tries once more by itself
        with pytest.raises(Unavailable):
            await warehouse.record(OBJECT, ROWS)
        assert await held(warehouse) == 3, "the rows are there, but nobody was told"
        await warehouse.record(OBJECT, ROWS)
        assert await held(warehouse) == 3


@pytest.mark.parametrize("faults", [1, 2])
async def test_a_body_is_sent_whole_again(server: doris.Server, faults: int) -> None:
    async with opened(server) as warehouse:
        await warehouse.record(OBJECT, [object_row(9)])  # from now on the connection may be one that was used before
        server.fail(*[{"drop": True}] * faults)
        for _ in range(2):
            try:
                await warehouse.record(OBJECT, ROWS)
                break
            except Unavailable:
                continue
        assert await held(warehouse) == 4


async def test_committed_but_not_yet_seen_is_kept(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        server.fail({"answer": {"Status": "Publish Timeout", "Message": "later"}})
        await warehouse.record(OBJECT, ROWS)
        for state in ("FINISHED", "VISIBLE", "COMMITTED"):
            server.fail({"answer": {"Status": EXISTS, "ExistingJobStatus": state}})
            await warehouse.record(OBJECT, ROWS)
        assert await held(warehouse) == 0, "the stand-in only said so"


async def test_a_load_under_way_is_waited_for(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        running = {"answer": {"Status": EXISTS, "ExistingJobStatus": "RUNNING"}}
        server.fail(running, running)
        await warehouse.record(OBJECT, ROWS)
        assert await held(warehouse) == 3


async def test_a_load_that_never_ends_is_given_up(server: doris.Server) -> None:
    async with opened(server, timeout_s=0.1) as warehouse:
        server.fail(*[{"answer": {"Status": EXISTS, "ExistingJobStatus": "RUNNING"}}] * 50)
        with pytest.raises(Unavailable, match="too long"):
            await warehouse.record(OBJECT, ROWS)
        server.fail()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ({"answer": {"Status": "Fail", "Message": "[MEM_LIMIT_EXCEEDED]PreCatch CANARY"}}, Full),
        ({"answer": {"Status": "Fail", "Message": "disk /d exceed capacity limit CANARY"}}, Full),
        ({"answer": {"Status": "Fail", "Message": "[DATA_QUALITY_ERROR]too many filtered rows CANARY"}}, BadRequest),
        ({"answer": {"Status": "Fail", "Message": "timeout CANARY"}}, Unavailable),
        ({"answer": {"Status": "what", "Message": "CANARY"}}, Unavailable),
        ({"answer": {"Label": "x"}}, Unavailable),
        ({"http": 503}, Unavailable),
        ({"http": 401}, Unavailable),
        ({"redirect": ""}, Unavailable),
        ({"redirect": "http://[::1"}, Unavailable),
        ({"redirect": "https://127.0.0.1:1/api"}, Unavailable),
        ({"redirect": "file:///etc/passwd"}, Unavailable),
    ],
)
async def test_a_load_that_fails(server: doris.Server, fault: dict[str, Any], raised: type[Exception]) -> None:
    async with opened(server) as warehouse:
        server.fail(fault)
        with pytest.raises(raised) as caught:
            await warehouse.record(OBJECT, ROWS)
        assert "CANARY" not in str(caught.value), "the servers quote rows, and those are patients'"
        assert await held(warehouse) == 0
        await warehouse.record(OBJECT, ROWS)
        assert await held(warehouse) == 3


@asynccontextmanager
async def stranger(seen: list[web.BaseRequest]) -> AsyncIterator[str]:
    """Have a server that is not of the cluster; yield its host and port."""

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.json_response({"Status": "Success"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_rows_and_credentials_do_not_go_to_strangers(server: doris.Server) -> None:
    seen: list[web.BaseRequest] = []
    async with stranger(seen) as place, opened(server) as warehouse:
        server.fail({"redirect": f"http://{place}/api"})
        with pytest.raises(Unavailable, match="not of the cluster"):
            await warehouse.record(OBJECT, ROWS)
        assert not seen


async def test_backends_that_the_operator_names_are_gone_to_and_no_others(server: doris.Server) -> None:
    seen: list[web.BaseRequest] = []
    async with stranger(seen) as place, opened(server, backends=(place,)) as warehouse:
        server.fail({"redirect": f"http://user:other@{place}/elsewhere"})
        await warehouse.record(OBJECT, ROWS)
        (request,) = seen
        assert request.path.endswith(f"/{OBJECT.name}/_stream_load"), "the path is ours"
        assert request.headers["Authorization"].startswith("Basic "), "and the credentials are"
        with pytest.raises(Unavailable, match="not of the cluster"):
            await warehouse.record(OBJECT, ROWS[:1])


async def test_a_circle_of_redirects_ends(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        server.fail(*[{"redirect": f"http://127.0.0.1:{server.http}/api"}] * 3)
        with pytest.raises(Unavailable, match="circle"):
            await warehouse.record(OBJECT, ROWS)


async def test_another_frontend_takes_the_place_of_one_that_is_away(server: doris.Server) -> None:
    url = server.url("test_two_frontends", before=f"127.0.0.1:{free_port()},127.0.0.2:{free_port()},")
    async with DorisWarehouse(Options(url=url, query_port=server.mysql), FAR) as warehouse:
        await warehouse.record(OBJECT, ROWS)
        assert await held(warehouse) == 3


async def test_batches_at_once_are_each_kept(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        batches = [[image_row(10 * batch + number) for number in range(10)] for batch in range(10)]
        await asyncio.gather(*(warehouse.record(IMAGE, rows) for rows in [*batches, *batches]))
        assert (await warehouse.counts())[IMAGE.name] == 100


async def test_a_value_that_fits_no_column_fails_its_batch(server: doris.Server) -> None:
    async with opened(server) as warehouse:
        for bad in ({"source_ae": "ö" * 40}, {"created_time": "CANARY"}, {"tenant_id": "x" * 257}):
            with pytest.raises(BadRequest) as caught:
                await warehouse.record(OBJECT, [*ROWS, object_row(9, **bad)])
            assert "CANARY" not in repr(caught.value)
        assert await held(warehouse) == 0
