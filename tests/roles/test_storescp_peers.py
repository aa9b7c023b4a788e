from __future__ import annotations

import pytest

from dicomnode.config import PeerTable
from dicomnode.roles.storescp.peers import KnownPeers


@pytest.mark.parametrize(
    ("host", "peer_ip", "known"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8:0::7", "2001:db8::7", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("127.0.0.1", "::1", True),
        ("localhost", "192.0.2.7", False),
        ("192.0.2.7", "", False),
        ("nowhere.invalid", "192.0.2.7", False),
    ],
)
async def test_a_peer_is_known_by_title_and_address(host: str, peer_ip: str, known: bool) -> None:
    peers = KnownPeers([PeerTable("OTHER", "198.51.100.1", 104), PeerTable("CT1", host, 104)])
    await peers.look_up()
    assert [peer.host for peer in peers.at("CT1", peer_ip)] == [host] * known
    assert not peers.at("CT2", peer_ip)


def test_only_names_need_to_be_looked_up_again() -> None:
    assert not KnownPeers([PeerTable("A", "192.0.2.7", 104), PeerTable("B", "::1", 104)]).has_names
    assert KnownPeers([PeerTable("A", "ct.example", 104)]).has_names
