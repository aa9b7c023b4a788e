"""Row 5: peers that hold on to what they have and say little, or listen little. Their time is up; others are served."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from dicomnode.dimse import command, pdu
from tests.attacks.peer import CONTEXTS, Peer
from tests.attacks.watch import ended, files, serves, survives, until
from tests.dimse.requests import CT, echo, p_data, pdv, request
from tests.flows.running import Running

STORE = p_data(pdv(3, 3, command.encode_store_rq(1, CT, "1.2.3")))


class Drip:
    """A thread that sends one byte now and then, until the node has closed."""

    def __init__(self, peer: Peer, data: bytes) -> None:
        self.sent = 0
        self._peer = peer
        self._data = data
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for byte in self._data:
            try:
                self._peer.socket.sendall(bytes((byte,)))
            except OSError:
                return
            self.sent += 1
            if self._stop.wait(0.2):
                return

    def stop(self) -> int:
        self._stop.set()
        self._thread.join(20)
        return self.sent


SAID = {"nothing": b"", "a byte": b"\1", "a head": request()[:6], "all but a byte": request()[:-1]}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_who_asks_for_no_association_is_closed(said: bytes, hasty: Running) -> None:
    with survives(hasty), Peer(hasty) as peer:
        peer.send(said)
        assert peer.is_closed()


def test_a_request_that_drips_does_not_start_the_clock_anew(hasty: Running) -> None:
    asked = request(CONTEXTS)
    with survives(hasty), Peer(hasty) as peer:
        drip = Drip(peer, asked)
        assert peer.is_closed()
        assert drip.stop() < len(asked)


FRAGMENT = b"\4\0\0\0\1\0" + b"\0\0\0\xfc\3\0" + bytes(250)
DRIPS = {
    "a head": (STORE[:1], STORE[1:]),
    "a command": (STORE[:30], STORE[30:]),
    "a PDV head": (STORE + FRAGMENT[:6], FRAGMENT[6:]),
    "an object": (STORE + FRAGMENT[:12], FRAGMENT[12:]),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_message_that_drips_has_a_time_of_its_own(what: str, hasty: Running) -> None:
    before = ended(hasty, "timed_out")
    at_once, dripped = DRIPS[what]
    with survives(hasty), Peer(hasty) as peer:
        peer.associate()
        peer.send(at_once)
        drip = Drip(peer, dripped)
        assert peer.ended_by() == pdu.ABORT
        assert drip.stop() < len(dripped)
    assert ended(hasty, "timed_out") == before + 1


def test_an_association_that_does_nothing_is_ended(hasty: Running) -> None:
    with survives(hasty), Peer(hasty) as peer:
        peer.associate()
        assert peer.echo() == 0
        assert peer.ended_by() == pdu.ABORT


@pytest.mark.parametrize("how", ["release", "abort", "rejected"])
def test_who_never_closes_is_closed(how: str, hasty: Running) -> None:
    with survives(hasty), Peer(hasty) as peer:
        if how == "rejected":
            # Another application context.
            assert peer.associate(request().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2")) == 3
        else:
            peer.associate()
            peer.send(pdu.release_rq() if how == "release" else b"\x42\0\0\0\0\4abcd")
            answer = peer.pdu()
            assert answer is not None
            assert answer[0] == (pdu.RELEASE_RP if how == "release" else pdu.ABORT)
        assert peer.is_closed()


def test_who_asks_and_never_listens_fills_no_memory(hasty: Running) -> None:
    with survives(hasty), Peer(hasty) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate()
        asked = b"".join(echo(1 + n % 60_000) for n in range(1000))
        peer.socket.settimeout(0.5)
        sent = 0
        try:
            # 200 MB of questions; the node must stop to take them.
            for _ in range(2_000):
                peer.socket.sendall(asked)
                sent += len(asked)
        except (TimeoutError, OSError):
            pass
        assert sent < 100 * 1024 * 1024
        peer.socket.settimeout(30)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"1,000 half-open sockets were not tested: this user may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("said", [b"", request()[:100]], ids=["silent", "half a request"])
def test_a_thousand_half_open_sockets_keep_nobody_out(said: bytes, start: Callable[..., Running]) -> None:
    node = start()
    with survives(node), ExitStack() as stack:
        served = stack.enter_context(Peer(node))
        served.associate()
        for number in range(1000):
            peer = stack.enter_context(Peer(node))
            peer.send(said)
            if number % 100 == 0:
                assert served.echo() == 0, "who is inside is served"
        # Who has been silent longest had to go.
        until(lambda: files(node) < 400, f"{files(node)} files")
        serves(node)
        assert served.echo() == 0


def test_dripping_associations_keep_nobody_out(start: Callable[..., Running]) -> None:
    node = start("storescp.limits.associations_per_peer=10", "storescp.limits.associations=30")
    with survives(node), ExitStack() as stack:
        drips = []
        for number in range(40):
            peer = stack.enter_context(Peer(node, f"127.0.1.{1 + number // 20}"))
            if peer.associate() == pdu.ASSOCIATE_AC:
                peer.send(STORE)
                drips.append(Drip(peer, FRAGMENT))
        assert len(drips) == 20, "ten for each address"
        late = time.monotonic() + 1
        while time.monotonic() < late:
            serves(node)
        for drip in drips:
            drip.stop()
