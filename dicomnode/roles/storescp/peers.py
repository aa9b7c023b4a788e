"""Which peers are known, by AE title and address. Names are looked up when the door opens and now and then again."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from dicomnode import log
from dicomnode.config import PeerTable, is_loopback

_log = log.get(__name__)


class KnownPeers:
    """The peers of the configuration, with the addresses that their hosts have now."""

    def __init__(self, peers: Iterable[PeerTable]) -> None:
        self._peers = tuple(peers)
        self._addresses: dict[str, frozenset[str]] = {}

    @property
    def has_names(self) -> bool:
        """Whether any host is a name, whose addresses may change."""
        return any(_address(peer.host) is None for peer in self._peers)

    async def look_up(self) -> None:
        """Learn the addresses of all hosts; one that cannot be found keeps those it had."""
        for host in {peer.host for peer in self._peers}:
            address = _address(host)
            if address is not None:
                self._addresses[host] = frozenset({address})
                continue
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                _log.warning("peer.unresolved", host=host, reason=str(error))
            else:
                self._addresses[host] = frozenset(str(name[0]) for *_, name in found)

    def at(self, ae_title: str, peer_ip: str) -> list[PeerTable]:
        """Return the peers of this title that have this address."""
        address = _address(peer_ip) or peer_ip
        return [
            peer
            for peer in self._peers
            if peer.ae_title == ae_title
            and (address in self._addresses.get(peer.host, ()) or (is_loopback(peer.host) and is_loopback(address)))
        ]

    def is_bound(self, ae_title: str) -> bool:
        """Tell whether a peer of this title, at whatever address, must show a certificate."""
        return any(peer.certificate for peer in self._peers if peer.ae_title == ae_title)


def _address(host: str) -> str | None:
    """Return `host` in the one way an address is written, an IPv4 address in IPv6 as IPv4; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
