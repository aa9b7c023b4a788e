"""Row 4: requests for an association that are meant to cost more than they are worth."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from dicomnode.dimse import pdu
from tests.attacks.peer import Peer
from tests.attacks.watch import survives
from tests.dimse.requests import APPLICATION, USER, context, item, raw_request
from tests.flows.running import Running

SYNTAX = item(0x40, b"1.2.840.10008.1.2")
ABSTRACT = item(0x30, b"1.2.840.10008.5.1.4.1.1.2")


def _nested(depth: int, size: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = item(0x50, data + bytes(max(0, min(size - len(data), 0))))
    return data


HEAVY: dict[str, bytes] = {
    "128 contexts of 40 syntaxes": raw_request(
        APPLICATION,
        *(context(2 * n + 1, b"1.2.840.10008.5.1.4.1.1.2", *[b"1.2.840.10008.1.2"] * 40) for n in range(128)),
    ),
    "129 contexts": raw_request(APPLICATION, *(context((2 * n + 1) % 256) for n in range(129)), USER),
    "thousands of syntaxes": raw_request(APPLICATION, item(0x20, bytes((1, 0, 0, 0)) + ABSTRACT + SYNTAX * 3000), USER),
    "thousands of contexts": raw_request(APPLICATION, context(1) * 3000),
    "empty items": raw_request(APPLICATION, item(0x00, b"") * 60_000),
    "empty user items": raw_request(APPLICATION, context(1), item(0x50, item(0x00, b"") * 16_000)),
    "empty items in a context": raw_request(APPLICATION, item(0x20, bytes((1, 0, 0, 0)) + item(0x00, b"") * 16_000)),
    "many roles": raw_request(
        APPLICATION, context(1), item(0x50, b"".join(item(0x54, b"\0\1%d\1\1" % (n % 10)) for n in range(7000)))
    ),
    "user items within user items": raw_request(APPLICATION, context(1), item(0x50, _nested(10_000, 60_000)[:60_000])),
    "an identity of 64 KB": raw_request(
        APPLICATION, context(1), item(0x50, item(0x58, b"\2\1" + struct.pack(">H", 60_000) + bytes(60_000) + b"\0\0"))
    ),
    "an identity that lies": raw_request(APPLICATION, context(1), item(0x50, item(0x58, b"\2\1\xff\xffx"))),
    "items longer than what holds them": raw_request(APPLICATION, item(0x20, b"\1\0\0\0" + item(0x30, b"1.2", 0xFFFF))),
    "a last item longer than the PDU": raw_request(APPLICATION, context(1), item(0x50, b"", 0xFFFF)),
    "the largest that is let in": raw_request(*[item(0x99, bytes(60_000))] * 4),
    "a larger one": raw_request(*[item(0x99, bytes(60_000))] * 5),
    "a UID of 64 KB": raw_request(item(0x10, b"1" * 65_000), context(1, b"1." * 30_000), USER),
}


@pytest.mark.parametrize("what", HEAVY)
def test_a_heavy_request(what: str, shared: Running) -> None:
    with survives(shared, 24):
        for _ in range(5):
            with Peer(shared) as peer:
                peer.send(HEAVY[what])
                answer = peer.pdu()
                assert answer is None or answer[0] in (pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ, pdu.ABORT)
                if answer is not None:
                    # The answer is no amplifier either.
                    assert len(answer[1]) < max(len(HEAVY[what]), 300)


def test_many_heavy_requests_at_once(start: Callable[..., Running]) -> None:
    node = start()
    heaviest = HEAVY["128 contexts of 40 syntaxes"]
    with survives(node, 96):
        peers = [Peer(node) for _ in range(60)]
        for peer in peers:
            # All but the last byte: nobody is answered, all is held.
            peer.send(heaviest[:-1])
        for peer in peers:
            peer.send(heaviest[-1:])
        kinds = []
        for peer in peers:
            answer = peer.pdu()
            kinds.append(answer[0] if answer else 0)
            peer.socket.close()
        assert set(kinds) <= {pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ}
        assert kinds.count(pdu.ASSOCIATE_AC) >= 50
