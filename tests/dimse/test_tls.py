from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dicomnode.config import ClientTlsTable, LimitsTable, PeerTable, ServerTlsTable, StoreScpTable
from dicomnode.dimse import tls
from dicomnode.dimse.items import Associate
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.responder import Caller
from dicomnode.dimse.scp import Visitor
from dicomnode.dimse.scu import Association, proposals
from dicomnode.errors import ConfigError, PeerError
from tests.certificates import authority_file, certified
from tests.dimse.peers import Recording, anyone
from tests.dimse.requests import CT, EXPLICIT, IMPLICIT, VERIFICATION, request
from tests.dimse.test_listener import counted

ASKED = proposals([(VERIFICATION, (IMPLICIT,)), (CT, (EXPLICIT,))])
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def _server(folder: Path, **more: Any) -> ServerTlsTable:
    certificate, key = certified(folder, "localhost", "127.0.0.1")
    return ServerTlsTable(0, str(certificate), str(key), **more)


def _client(folder: Path, name: str = "", by: str = "ours", trusts: str = "ours") -> ClientTlsTable:
    certificate, key = certified(folder, name, by=by) if name else ("", "")
    return ClientTlsTable(str(authority_file(folder, trusts)), str(certificate), str(key))


@asynccontextmanager
async def secured(
    table: ServerTlsTable, handlers: Recording | None = None, admit: Any = anyone, **limits: Any
) -> AsyncIterator[Listener]:
    chosen = StoreScpTable(port=-1, tls=table, limits=LimitsTable(drain_s=1, **limits))
    listener = Listener(chosen, admit, handlers or Recording())
    await listener.open()
    try:
        yield listener
    finally:
        await listener.drain()


def _peer(listener: Listener, table: ClientTlsTable, certificate: str = "") -> PeerTable:
    assert listener.tls_address is not None
    return PeerTable("DICOMNODE", *listener.tls_address, tls=table, certificate=certificate)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_objects_go_through_tls_on_either_loop(tmp_path: Path, loop: Callable[..., Any], size: int) -> None:
    handlers, data = Recording(), bytes(range(250)) * (size // 250)

    async def talk() -> list[int]:
        async with (
            secured(_server(tmp_path), handlers) as listener,
            Association.request(_peer(listener, _client(tmp_path)), "ME", ASKED) as association,
        ):
            return [await association.echo()] + [
                await association.store(CT, f"1.2.{n}", EXPLICIT, data) for n in range(3)
            ]

    assert await _in(loop, talk()) == [0, 0, 0, 0]
    assert handlers.data == [data] * 3


async def _in(loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> Any:
    def run() -> Any:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(main)

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("loop", LOOPS)
async def test_what_is_no_tls_is_closed_and_counted(tmp_path: Path, loop: Callable[..., Any]) -> None:
    async def knock() -> list[bytes]:
        answers = []
        async with secured(_server(tmp_path)) as listener:
            async with counted("refused_garbage", 3):
                for said in (request(), b"GET / HTTP/1.1\r\n\r\n", b""):
                    reader, writer = await asyncio.open_connection(*listener.address)
                    writer.write(said)
                    if not said:
                        writer.close()
                    answers.append(await reader.read())
                    writer.close()
            assert not listener._outside
        return answers

    answers = await _in(loop, knock())
    assert all(answer[:1] in (b"", b"\x15") for answer in answers)  # nothing, or an alert of TLS


async def test_garbage_after_the_handshake_is_closed_counted_and_not_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with secured(_server(tmp_path)) as listener, counted("refused_garbage"):
        trusting = ssl.create_default_context(cafile=str(authority_file(tmp_path)))
        reader, writer = await asyncio.open_connection(*listener.address, ssl=trusting, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
    assert not re.search(r"info|warning|error", capsys.readouterr().out)


async def test_who_does_not_shake_hands_in_time_is_closed(tmp_path: Path) -> None:
    async with secured(_server(tmp_path), artim_s=0.2) as listener, counted("refused_garbage"):
        reader, writer = await asyncio.open_connection(*listener.address)
        assert await reader.read() == b""
        writer.close()
        assert not listener._outside


async def test_who_has_not_shaken_hands_is_half_open(tmp_path: Path) -> None:
    async with secured(_server(tmp_path), half_open=3) as listener:
        silent = [await asyncio.open_connection(*listener.address) for _ in range(10)]
        async with Association.request(_peer(listener, _client(tmp_path)), "ME", ASKED) as association:
            assert await association.echo() == 0
            assert len(listener._outside) <= 3
        for _, writer in silent:
            writer.close()


async def test_a_certificate_of_a_stranger_is_not_trusted(tmp_path: Path) -> None:
    async with secured(_server(tmp_path)) as listener:
        with pytest.raises(PeerError, match="not trusted") as caught:
            async with Association.request(_peer(listener, _client(tmp_path, trusts="theirs")), "ME", ASKED):
                pass
        assert not caught.value.transient


async def test_true_is_tls_with_whom_this_machine_trusts(tmp_path: Path) -> None:
    async with secured(_server(tmp_path)) as listener:
        peer = PeerTable("DICOMNODE", *listener.address, tls=True)
        with pytest.raises(PeerError, match="not trusted"):
            async with Association.request(peer, "ME", ASKED):
                pass


async def test_mutual_tls_tells_whose_certificate_it_is(tmp_path: Path) -> None:
    seen: list[Visitor] = []

    def looking(request: Associate, visitor: Visitor) -> Caller:
        seen.append(visitor)
        return anyone(request, visitor)

    table = _server(tmp_path, client_ca=str(authority_file(tmp_path)))
    client = _client(tmp_path, "ct1.example.org")
    async with secured(table, admit=looking) as listener:
        async with Association.request(_peer(listener, client), "ME", ASKED) as association:
            assert await association.echo() == 0
        [visitor] = seen
        assert visitor.certificate is not None
        assert visitor.certificate.fits("CT1.example.org")
        assert not visitor.certificate.fits("ct2.example.org")
        raw = ssl.PEM_cert_to_DER_cert(Path(client.certificate).read_text())
        digest = hashlib.sha256(raw).hexdigest()
        assert visitor.certificate.fits(digest)
        assert visitor.certificate.fits("sha256:" + ":".join(digest[i : i + 2] for i in range(0, 64, 2)).upper())


@pytest.mark.parametrize("client", [{"name": ""}, {"name": "ct1.example.org", "by": "theirs"}])
async def test_mutual_tls_keeps_out_who_shows_no_certificate_or_a_strangers(
    tmp_path: Path, client: dict[str, str]
) -> None:
    table = _server(tmp_path, client_ca=str(authority_file(tmp_path)))
    async with secured(table) as listener, counted("refused_garbage"):
        with pytest.raises(PeerError):
            async with Association.request(_peer(listener, _client(tmp_path, **client)), "ME", ASKED):
                pass


async def test_a_peer_is_called_that_shows_the_certificate_it_should(tmp_path: Path) -> None:
    table = _server(tmp_path)
    raw = ssl.PEM_cert_to_DER_cert(Path(table.certificate).read_text())
    pinned = hashlib.sha256(raw).hexdigest()
    async with secured(table) as listener:
        for described, trusts in (("localhost", "ours"), (pinned, "ours"), (pinned, "")):
            client = _client(tmp_path) if trusts else ClientTlsTable()
            async with Association.request(_peer(listener, client, described), "ME", ASKED) as association:
                assert await association.echo() == 0
        for described in ("other.example.org", pinned[::-1]):
            with pytest.raises(PeerError, match="another certificate"):
                async with Association.request(_peer(listener, _client(tmp_path), described), "ME", ASKED):
                    pass


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("most", "suites", "fits"),
    [
        (ssl.TLSVersion.TLSv1_3, "DEFAULT", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", True),
        (ssl.TLSVersion.TLSv1_2, "AES256-GCM-SHA384", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384", False),
        (ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0", False),
    ],
)
async def test_only_what_bcp_195_recommends_is_spoken(
    tmp_path: Path, most: ssl.TLSVersion, suites: str, fits: bool
) -> None:
    context = ssl.create_default_context(cafile=str(authority_file(tmp_path)))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = most
    context.set_ciphers(suites)
    async with secured(_server(tmp_path)) as listener:
        assert await _shakes_hands(listener, context) is fits


async def test_one_profile_speaks_tls_1_3_alone(tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(authority_file(tmp_path)))
    async with secured(_server(tmp_path, profile="tls13")) as listener:
        assert await _shakes_hands(listener, context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not await _shakes_hands(listener, context)


async def _shakes_hands(listener: Listener, context: ssl.SSLContext) -> bool:
    try:
        _, writer = await asyncio.open_connection(*listener.address, ssl=context, server_hostname="localhost")
    except OSError:
        return False
    writer.close()
    return True


async def test_certificates_are_read_again_and_associations_go_on(tmp_path: Path) -> None:
    table = _server(tmp_path)
    pinned = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(table.certificate).read_text())).hexdigest()
    client = _client(tmp_path)
    async with (
        secured(table) as listener,
        Association.request(_peer(listener, client, pinned), "ME", ASKED) as standing,
    ):
        _server(tmp_path)  # writes another certificate to the same files
        await listener.read_certificates()
        assert await standing.echo() == 0
        with pytest.raises(PeerError, match="another certificate"):
            async with Association.request(_peer(listener, client, pinned), "ME", ASKED):
                pass
        async with Association.request(_peer(listener, client), "ME", ASKED) as newer:
            assert await newer.echo() == 0
        Path(table.key).write_text("nonsense")
        with pytest.raises(ConfigError):
            await listener.read_certificates()
        async with Association.request(_peer(listener, client), "ME", ASKED) as newer:
            assert await newer.echo() == 0


async def test_files_that_cannot_be_used_are_told_with_their_key(tmp_path: Path) -> None:
    certificate, key = map(str, certified(tmp_path, "a.example.org"))
    _, other = map(str, certified(tmp_path, "b.example.org"))
    wrong = tmp_path / "wrong"
    wrong.write_text("nonsense")
    for table, told in (
        (ServerTlsTable(0, str(tmp_path / "none"), key), r"tls\.certificate: .* cannot be read"),
        (ServerTlsTable(0, certificate, str(tmp_path / "none")), r"tls\.key: .* cannot be read"),
        (ServerTlsTable(0, certificate, other), r"tls\.key: .* is not the key of the certificate"),
        (ServerTlsTable(0, certificate, str(wrong)), r"tls\.key: .* cannot be used"),
        (ServerTlsTable(0, certificate, key, client_ca=str(wrong)), r"tls\.client_ca: .* cannot be used"),
    ):
        with pytest.raises(ConfigError, match=told):
            tls.server_context(table)
    with pytest.raises(PeerError, match=r"node\.tls\.ca: .* cannot be read"):
        await tls.calling(PeerTable("X", "localhost", 1, tls=ClientTlsTable(str(tmp_path / "none"))))


async def test_draining_ends_associations_and_handshakes_on_tls(tmp_path: Path) -> None:
    async with secured(_server(tmp_path)) as listener:
        reader, writer = await asyncio.open_connection(*listener.address)
        while not listener._outside:
            await asyncio.sleep(0.01)
        async with Association.request(_peer(listener, _client(tmp_path)), "ME", ASKED) as association:
            await listener.drain()
            with pytest.raises(PeerError):
                await association.echo()
        assert await reader.read() == b""
        writer.close()
        assert not listener._outside
        assert not listener._sockets
