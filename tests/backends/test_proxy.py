from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.backends.proxy import Proxy, before


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_echo, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        with before("127.0.0.1", listener.getsockname()[1]) as proxy:
            yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            connection.sendall(piece)


def _connect(proxy: Proxy, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout)


def test_everything_goes_through(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 8000

    def send(connection: socket.socket) -> None:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)

    with _connect(proxy) as connection:
        threading.Thread(target=send, args=(connection,)).start()
        got = b""
        while piece := connection.recv(65536):
            got += piece
    assert got == sent
    assert proxy.taken == 1


def test_cut_resets_and_refuses_and_the_port_comes_back(proxy: Proxy) -> None:
    port = proxy.port
    with _connect(proxy) as connection:
        connection.sendall(b"a")
        assert connection.recv(1) == b"a"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        _connect(proxy)
    assert proxy.connections == 0
    proxy.forward()
    assert proxy.port == port
    with _connect(proxy) as connection:
        connection.sendall(b"b")
        assert connection.recv(1) == b"b"


def test_what_hangs_goes_on_and_loses_nothing(proxy: Proxy) -> None:
    with _connect(proxy, 0.2) as old:
        old.sendall(b"a")
        assert old.recv(1) == b"a"
        proxy.hang()
        with _connect(proxy, 0.2) as new:
            for connection in (old, new):
                connection.sendall(b"b")
                with pytest.raises(TimeoutError):
                    connection.recv(1)
            proxy.forward()
            for connection in (old, new):
                connection.settimeout(5)
                assert connection.recv(1) == b"b"


def test_what_is_dropped_is_lost_in_silence(proxy: Proxy) -> None:
    with _connect(proxy, 0.2) as torn, _connect(proxy, 5) as idle:
        for connection in (torn, idle):
            connection.sendall(b"a")
            assert connection.recv(1) == b"a"
        proxy.drop()
        torn.sendall(b"lost")
        with pytest.raises(TimeoutError):
            torn.recv(1)
        proxy.forward()
        torn.settimeout(5)
        with pytest.raises(ConnectionResetError):
            torn.recv(1)
        idle.sendall(b"b")
        assert idle.recv(1) == b"b"


def test_delay(proxy: Proxy) -> None:
    proxy.delay(0.1)
    with _connect(proxy) as connection:
        began = time.monotonic()
        connection.sendall(b"a")
        assert connection.recv(1) == b"a"
        assert time.monotonic() - began >= 0.2  # there and back
        proxy.forward()
        began = time.monotonic()
        connection.sendall(b"b")
        assert connection.recv(1) == b"b"
        assert time.monotonic() - began < 0.1


def test_a_server_that_is_away_is_a_reset() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with before("127.0.0.1", port) as proxy, _connect(proxy) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)


async def test_from_within_an_event_loop(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("url", "leads"),
    [
        ("postgresql://u:p%40ss@h:5432/db?x=1", "postgresql://u:p%40ss@127.0.0.1:{}/db?x=1"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:{}/0"),
        ("http://localhost", "http://127.0.0.1:{}"),
    ],
)
def test_a_url_leads_here(url: str, leads: str, proxy: Proxy) -> None:
    assert proxy.url(url) == leads.format(proxy.port)
