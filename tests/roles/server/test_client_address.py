from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.roles.server.client_address import Proxies

TRUSTED = Proxies(("10.0.0.0/8", "2001:db8::/32", "192.0.2.1"))
PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, 10.1.1.1", "198.51.100.7"),
        ("203.0.113.9, 198.51.100.7, 10.1.1.1, 192.0.2.1", "198.51.100.7"),  # what stands left is the client's word
        ("198.51.100.7:5123", "198.51.100.7"),
        ("[2001:db9::1]:443", "2001:db9::1"),
        ("[2001:db9::1]", "2001:db9::1"),
        ("2001:DB9:0::1", "2001:db9::1"),
        ("2001:db9::1, 2001:db8::5", "2001:db9::1"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),  # all of them trusted: the first
        ("", PROXY),
        (" , ", PROXY),
        ("garbage", PROXY),
        ("unknown", PROXY),
        ("198.51.100.7, garbage", PROXY),
        ("198.51.100.7, garbage, 10.3.3.3", "10.3.3.3"),
        ("198.51.100.7:99999999", PROXY),
        ("1.2.3", PROXY),
        ("' OR 1=1 --", PROXY),
        ("<script>", PROXY),
        ("1" * 5000, PROXY),
    ],
)
def test_x_forwarded_for(told: str, client: str) -> None:
    assert TRUSTED.client(PROXY, told, "") == client


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ('For="[2001:db9:cafe::17]:4711"', "2001:db9:cafe::17"),
        ('for="198.51.100.7:80";proto=http;by=203.0.113.43', "198.51.100.7"),
        ("proto=https; for=198.51.100.7 ;host=x", "198.51.100.7"),
        ("for=203.0.113.9, for=198.51.100.7, for=10.1.1.1", "198.51.100.7"),
        ('for=203.0.113.9;host="a,b;for=1.1.1.1", for=10.1.1.1', "203.0.113.9"),
        ("for=unknown", PROXY),
        ('for="_hidden", for=10.9.9.9', "10.9.9.9"),
        ("by=198.51.100.7", PROXY),
        ('for="', PROXY),
        ("for", PROXY),
        ("=;=,;", PROXY),
    ],
)
def test_forwarded(told: str, client: str) -> None:
    assert TRUSTED.client(PROXY, "", told) == client


def test_whoever_is_not_trusted_speaks_for_nobody() -> None:
    assert TRUSTED.client("198.51.100.99", "1.2.3.4", "for=1.2.3.4") == "198.51.100.99"
    assert TRUSTED.client("::ffff:10.0.0.1", "1.2.3.4", "") == "1.2.3.4"
    assert Proxies(()).client(PROXY, "1.2.3.4", "for=1.2.3.4") == PROXY
    assert TRUSTED.client("", "1.2.3.4", "") == ""


def test_a_proxy_that_adds_to_one_header_lets_no_client_speak_in_the_other() -> None:
    assert TRUSTED.client(PROXY, "198.51.100.7", "for=1.2.3.4") == "198.51.100.7"


_piece = st.sampled_from(
    [*("for=", "10.0.0.1", '"', "\\", ",", ";", " ", "[", "]", ":", "1.2.3.4", "2001:db8::1", "x", "%", "=", "\0", "ä")]
)


@given(st.lists(_piece, max_size=60).map("".join), st.lists(_piece, max_size=60).map("".join))
def test_whatever_is_told_an_address_comes_out(forwarded_for: str, forwarded: str) -> None:
    client = TRUSTED.client(PROXY, forwarded_for, forwarded)
    assert client
    assert set(client) <= set("0123456789abcdef:.")


@pytest.mark.parametrize("text", ['for="', ",", ";for=", '"\\', " ", "for=10.0.0.1,", ";" + " " * 50 + "for", "["])
def test_headers_made_to_take_long_do_not(text: str) -> None:
    header = text * (16_384 // len(text))
    started = time.perf_counter()
    TRUSTED.client(PROXY, header, "")
    TRUSTED.client(PROXY, "", header)
    assert time.perf_counter() - started < 1.0
