"""The 64-bit SeaHash of a UID, as the tables of the warehouse have had it since seed 0: 20 decimal digits.

Source: the reference implementation of SeaHash, version 4 (github.com/redox-os/tfs/tree/master/seahash).
"""

from __future__ import annotations

from functools import lru_cache

_SEEDS = (0x16F11FE89B0D677C, 0xB480A793D8E6C86C, 0x6FE2E5AAF078EBC9, 0x14F994A4C5259381)
_PRIME = 0x6EED0E9DA4D94A4F
_MASK = 0xFFFF_FFFF_FFFF_FFFF


@lru_cache(4096)
def uid_hash(uid: str) -> str:
    """Return the hash of the UTF-8 bytes of `uid`, with leading zeros."""
    return f"{seahash(uid.encode()):020d}"


def seahash(data: bytes) -> int:
    """Return the SeaHash of `data`."""
    a, b, c, d = _SEEDS
    for start in range(0, len(data), 8):
        word = int.from_bytes(data[start : start + 8], "little")
        a, b, c, d = b, c, d, _diffused(a ^ word)
    return _diffused(a ^ b ^ c ^ d ^ len(data))


def _diffused(word: int) -> int:
    word = word * _PRIME & _MASK
    word ^= (word >> 32) >> (word >> 60)
    return word * _PRIME & _MASK
