"""Whose request it is behind proxies: what they say is believed from the right, as far as they are trusted.

A proxy adds the address that it was called from at the right end (RFC 7239 5.2, and X-Forwarded-For before it).
Whatever stands further left was there when the request came to it, and may have been made up by the client.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_MOST, _LONGEST = 32, 512
# Quoted strings may hold commas and semicolons.
_PIECES = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)\s*(?=;|$)', re.IGNORECASE)
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\w{1,5})?|([0-9.]+):\w{1,5}")

Address = IPv4Address | IPv6Address


class Proxies:
    """Those that are trusted: addresses or networks, such as `10.0.0.0/8`."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = tuple(ip_network(each, strict=False) for each in trusted)
        self._is_trusted = lru_cache(1024)(self._lies_within)

    def client(self, peer: str, forwarded_for: str, forwarded: str) -> str:
        """Return the address of the client: `peer`, or whom a trusted `peer` and those before it speak for.

        Of the headers X-Forwarded-For counts where there is one: most proxies add to it, and let the other one pass.
        """
        if not self._networks or not (forwarded_for or forwarded):
            return peer
        told = _PIECES.findall(forwarded_for) if forwarded_for else [_for(each) for each in _PIECES.findall(forwarded)]
        address = peer
        for element in reversed(told[-_MOST:]):
            before = _address(element)
            if before is None or not self._is_trusted(address):
                break
            address = before
        return address

    def _lies_within(self, address: str) -> bool:
        known = _parsed(address)
        return known is not None and any(known in network for network in self._networks)


@lru_cache(8)
def proxies(trusted: tuple[str, ...]) -> Proxies:
    """Return those of a configuration."""
    return Proxies(trusted)


def _for(element: str) -> str:
    found = _FOR.search(element) if len(element) <= _LONGEST else None
    return found[1].strip('"') if found else ""


def _address(element: str) -> str | None:
    """Return the address that an element names, without its port; None for anything else (`unknown`, `_hidden`)."""
    text = element.strip().strip('"') if len(element) <= _LONGEST else ""
    ported = _WITH_PORT.fullmatch(text)
    known = _parsed((ported[1] or ported[2] or "") if ported else text)
    return None if known is None else str(known)


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
