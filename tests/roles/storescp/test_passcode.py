from __future__ import annotations

import base64

import pytest

from dicomnode.roles.storescp.passcode import DUMMY, fits, hashed, is_hashed


def test_a_passcode_fits_its_hash_and_no_other() -> None:
    kept, again = hashed(b"open sesame"), hashed(b"open sesame")
    assert kept != again
    assert is_hashed(kept)
    assert fits(kept, b"open sesame")
    assert fits(again, b"open sesame")
    assert not fits(kept, b"open sesamE")
    assert not fits(kept, kept.encode())


def test_a_hash_of_another_maker_fits() -> None:
    # RFC 7914 12, third example: N=16384, r=8, p=1.
    digest = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
    packed = base64.b64encode(digest).decode().rstrip("=")
    assert fits(f"$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU${packed}", b"pleaseletmein")


def test_a_passcode_may_be_kept_as_it_is() -> None:
    assert fits("open sesame", b"open sesame")
    assert not fits("open sesame", b"")


@pytest.mark.parametrize("passcode", [b"", b"x"])
def test_nothing_fits_the_dummy(passcode: bytes) -> None:
    assert is_hashed(DUMMY)
    assert not fits(DUMMY, passcode)


def test_a_hash_that_would_cost_too_much_fits_nothing() -> None:
    assert not fits("$scrypt$ln=30,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf04/w", b"x")
