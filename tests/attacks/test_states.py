"""Rows 6 and 7 of the upper layer: a peer goes, aborts, talks nonsense or closes half at every state (PS3.8 9.2)."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from dicomnode.dimse import command, pdu
from tests.attacks.peer import CONTEXTS, Peer
from tests.attacks.watch import metric, survives, until
from tests.corpus import data_set_of, make, part10
from tests.dimse.requests import CT, EXPLICIT, p_data, pdv, request
from tests.flows.running import Running

COMMAND = p_data(pdv(3, 3, command.encode_store_rq(1, CT, "1.2.3")))
DATA = data_set_of(part10(make()))
BIG = DATA + b"\xfc\xff\xfc\xffOB\0\0" + (12_000_000).to_bytes(4, "little") + bytes(12_000_000)
LAST = p_data(pdv(3, 2, DATA))


def _connected(peer: Peer) -> None:
    """Say nothing."""


def _asking(peer: Peer) -> None:
    peer.send(request(CONTEXTS)[:90])


def _idle(peer: Peer) -> None:
    assert peer.associate() == pdu.ASSOCIATE_AC


def _in_head(peer: Peer) -> None:
    _idle(peer)
    peer.send(COMMAND[:3])


def _in_command(peer: Peer) -> None:
    _idle(peer)
    peer.send(COMMAND[:40])


def _before_data(peer: Peer) -> None:
    _idle(peer)
    peer.send(COMMAND)


def _in_data(peer: Peer) -> None:
    _idle(peer)
    peer.send(COMMAND + LAST[:200])


def _in_stream(peer: Peer) -> None:
    """Be within an object of which the storage has the first half already."""
    _idle(peer)
    peer.send(COMMAND)
    for at in range(0, 6_000_000, 60_000):
        peer.send(p_data(pdv(3, 0, BIG[at : at + 60_000])))


def _storing(peer: Peer) -> None:
    _idle(peer)
    peer.send(COMMAND + LAST)


def _pipelined(peer: Peer) -> None:
    _idle(peer)
    peer.send((COMMAND + LAST) * 20)


def _releasing(peer: Peer) -> None:
    _idle(peer)
    peer.send(pdu.release_rq())


def _refused(peer: Peer) -> None:
    assert peer.associate(request().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2")) == pdu.ASSOCIATE_RJ


def _aborted(peer: Peer) -> None:
    _idle(peer)
    peer.send(b"\x42\0\0\0\0\4abcd")


STATES: dict[str, Callable[[Peer], None]] = {
    "connected": _connected,
    "asking": _asking,
    "idle": _idle,
    "within a head": _in_head,
    "within a command": _in_command,
    "before the data": _before_data,
    "within the data": _in_data,
    "within a stream": _in_stream,
    "storing": _storing,
    "many sent ahead": _pipelined,
    "releasing": _releasing,
    "refused": _refused,
    "aborted": _aborted,
}


def _half_close(peer: Peer) -> None:
    peer.socket.shutdown(socket.SHUT_WR)
    peer.ended_by()


def _garbage(peer: Peer) -> None:
    peer.send(b"\xde\xad\xbe\xef" * 1000)
    peer.socket.shutdown(socket.SHUT_WR)
    peer.ended_by()


def _all_pdus(peer: Peer) -> None:
    """Send one PDU of each type, right in itself, wrong in this place."""
    peer.send(request() + b"\2" + request()[1:] + b"\3\0\0\0\0\4\0\1\1\1" + LAST + pdu.release_rq() + pdu.release_rp())
    peer.socket.shutdown(socket.SHUT_WR)
    peer.ended_by()


ACTS: dict[str, Callable[[Peer], None]] = {
    "abort": lambda peer: peer.send(pdu.abort(by_provider=False)),
    "abort by the provider": lambda peer: peer.send(pdu.abort(by_provider=True, reason=6)),
    "reset": Peer.reset,
    "close": lambda peer: peer.socket.close(),
    "half close": _half_close,
    "garbage": _garbage,
    "every PDU": _all_pdus,
}


@pytest.mark.parametrize("state", STATES)
def test_anything_at_every_state(state: str, shared: Running) -> None:
    # A stream holds limits.held_in_memory and five chunks of a MiB; a few of these may overlap.
    with survives(shared, 160 if state == "within a stream" else 48):
        for act in ACTS.values():
            for _ in range(3):
                with Peer(shared) as peer:
                    STATES[state](peer)
                    act(peer)
    until(lambda: metric(shared, "dicomnode_associations_open_count") == 0, "none is left open")


def test_what_was_cut_off_is_not_kept(shared: Running) -> None:
    root = shared.data_dir / "storage"
    before = {path for path in root.rglob("*") if path.is_file()}
    with survives(shared, 160):
        for act in ("abort", "reset", "half close"):
            for state in ("within the data", "within a stream"):
                with Peer(shared) as peer:
                    STATES[state](peer)
                    ACTS[act](peer)
    until(lambda: metric(shared, "dicomnode_associations_open_count") == 0, "none is left open")
    after = {path for path in root.rglob("*") if path.is_file()}
    # `survives` has stored one object itself.
    until(lambda: len({path for path in root.rglob("*") if path.is_file()} - before) == 1, str(after - before))


def test_an_object_of_a_peer_that_went_is_kept_whole_or_not_at_all(shared: Running) -> None:
    data = [data_set_of(part10(make())) for _ in range(5)]
    for act in (ACTS["reset"], ACTS["abort"], ACTS["close"]):
        for one in data:
            with Peer(shared) as peer:
                _idle(peer)
                peer.send(COMMAND + p_data(pdv(3, 2, one)))
                act(peer)
    with survives(shared), Peer(shared) as peer:
        peer.associate()
        for one in data:
            assert peer.store(one, EXPLICIT) == 0
        peer.release()
    kept = [path.read_bytes() for path in (shared.data_dir / "storage").rglob("*.dcm")]
    assert set(data) <= {data_set_of(file) for file in kept}
