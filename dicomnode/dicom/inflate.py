"""Deflated data sets (PS3.5 A.5): inflated a bounded head at a time, never more than the reader asks for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from dicomnode.errors import BadInstance

MAX_BYTES: Final = 64 * 1024 * 1024
_FIRST_BYTES = 64 * 1024


def heads(deflated: bytes | bytearray | memoryview, most: int | None = None) -> Iterator[tuple[bytes, bool]]:
    """Yield ever longer heads of the inflated data set, each twice the one before, and whether it is the whole of it.

    Ends without a whole one where `deflated` is itself cut short.

    Raises:
        BadInstance: it is not deflated, or more than `most` bytes (and never more than 64 MiB) had to be inflated.
    """
    most = MAX_BYTES if most is None else min(most, MAX_BYTES)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest: bytes | memoryview = memoryview(deflated)
    head = bytearray()
    room = _FIRST_BYTES
    while len(head) < most:
        try:
            got = inflater.decompress(rest, room)
        except zlib.error:
            raise BadInstance("the deflated data set cannot be inflated") from None
        rest = inflater.unconsumed_tail
        head += got
        yield bytes(head), inflater.eof
        if inflater.eof or len(got) < room:
            return
        room = len(head)
    raise BadInstance(f"more than {most} bytes of the deflated data set had to be inflated")
