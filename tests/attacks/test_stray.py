"""Row 3: what is no DICOM at all, and PDUs whose lengths lie, at every point of an association."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable

import pytest

from dicomnode.dimse import command, pdu
from tests.attacks.peer import CONTEXTS, Peer
from tests.attacks.watch import ended, survives, until
from tests.dimse.requests import CT, p_data, pdv, request
from tests.flows.running import Running

TLS_HELLO = bytes.fromhex(
    "1603010200010001fc0303" + "11" * 32 + "20" + "22" * 32 + "003e130213031301c02cc030009fcca9cca8ccaac02bc02f"
)
STRANGERS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: node\r\nUser-Agent: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": TLS_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMB": bytes.fromhex("00000085ff534d4272000000001853c8"),
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "MLLP": b"\x0bMSH|^~\\&|X\r\x1c\r",
    "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 104\r\n",
    "one byte": b"\xff",
    "zeros": bytes(1000),
    "much": b"G" * 5_000_000,
}


def test_strangers_are_closed_at_once_without_noise(start: Callable[..., Running]) -> None:
    node = start()
    quiet = node.told()
    with survives(node, 16):
        for what, said in STRANGERS.items():
            before = ended(node, "refused_garbage")
            with Peer(node) as peer:
                peer.send(said)
                assert peer.is_closed(), what
            until(lambda before=before: ended(node, "refused_garbage") == before + 1, what)  # type: ignore[misc]
        assert node.told() == quiet, "nothing above debug"


def test_a_stranger_who_begins_as_a_pdu_does_is_aborted_without_noise(start: Callable[..., Running]) -> None:
    node = start()
    quiet = node.told()
    # A remote desktop's client: 03 is also an A-ASSOCIATE-RJ, until its length is seen.
    with Peer(node) as peer:
        peer.send(bytes.fromhex("0300002b26e00000000000436f6f6b69653a206d737473686173683d"))
        assert peer.ended_by() == pdu.ABORT
    until(lambda: ended(node, "aborted") == 1, "one stranger")
    assert node.told() == quiet


def test_probes_that_only_connect(start: Callable[..., Running]) -> None:
    node = start()
    quiet = node.told()
    with survives(node, 16):
        for number in range(200):
            peer = Peer(node)
            if number % 2:
                peer.reset()  # a port scanner
            else:
                peer.socket.close()  # a load balancer
        until(lambda: ended(node, "refused_garbage") == 200, "200 probes")
        assert node.told() == quiet


def test_a_stranger_costs_a_line_at_debug_at_most(start: Callable[..., Running]) -> None:
    node = start("node.log_level=debug")
    with Peer(node) as peer:
        peer.send(STRANGERS["HTTP"])
        assert peer.is_closed()
    until(lambda: ended(node, "refused_garbage") == 1, "one stranger")
    lines = [json.loads(line) for line in node.told().splitlines() if "association" in line]
    assert all(line["level"] == "debug" for line in lines)
    assert len(lines) <= 1
    assert "GET" not in node.told().replace('"GET"', ""), "what a stranger says is not told"


LENGTHS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)


@pytest.mark.parametrize("kind", range(1, 8))
@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_lies(kind: int, length: int, shared: Running) -> None:
    lie = struct.pack(">BxI", kind, length)
    with survives(shared):
        for associated in (False, True):
            with Peer(shared) as peer:
                if associated:
                    assert peer.associate() == pdu.ASSOCIATE_AC
                peer.send(lie)
                # Nothing of the PDU itself is sent: the head is enough.
                assert peer.ended_by() == pdu.ABORT


@pytest.mark.parametrize("length", LENGTHS)
def test_a_fragment_whose_length_lies(length: int, shared: Running) -> None:
    begun = p_data(pdv(3, 3, command.encode_store_rq(1, CT, "1.2.3")))
    with survives(shared):
        for before, control in ((b"", 3), (begun, 2), (begun, 0)):
            with Peer(shared) as peer:
                assert peer.associate() == pdu.ASSOCIATE_AC
                peer.send(before + struct.pack(">BxIIBB", 4, 200, length, 3, control) + bytes(194))
                assert peer.ended_by() == pdu.ABORT


def test_empty_pdus_and_fragments_without_end(hasty: Running) -> None:
    begun = p_data(pdv(3, 3, command.encode_store_rq(1, CT, "1.2.3")))
    with survives(hasty), Peer(hasty) as peer:
        assert peer.associate() == pdu.ASSOCIATE_AC
        peer.send(begun)
        for _ in range(200):
            peer.send(p_data(pdv(3, 0, b"")) * 5000)
        # A million fragments of nothing are no message: its time is up.
        assert peer.ended_by() == pdu.ABORT


def test_a_command_set_without_end(shared: Running) -> None:
    with survives(shared), Peer(shared) as peer:
        assert peer.associate() == pdu.ASSOCIATE_AC
        for _ in range(40):
            peer.send(p_data(pdv(3, 1, bytes(16_000))))
        assert peer.ended_by() == pdu.ABORT


def test_one_byte_at_a_time(shared: Running) -> None:
    with survives(shared), Peer(shared) as peer:
        asked = request(CONTEXTS)
        for at in range(len(asked)):
            peer.send(asked[at : at + 1])
        answer = peer.pdu()
        assert answer is not None
        assert answer[0] == pdu.ASSOCIATE_AC
        assert peer.echo() == 0
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.is_closed()
