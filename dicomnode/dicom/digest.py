"""The SHA-256 of a data set, made while its bytes arrive, so that little is left to do once the last one is here."""

from __future__ import annotations

import hashlib
from typing import Final

_WORTH: Final = 64 * 1024  # bytes; less at a time costs more in calls than it saves at the end


class Digest:
    """A digest of the beginning of a data set, as far as it was `advance`d."""

    __slots__ = ("_done", "_sha")

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._done = 0

    def advance(self, data: memoryview, size: int) -> None:
        """Take in what is new of the first `size` bytes of `data`, unless that is little."""
        if size - self._done >= _WORTH:
            self._sha.update(data[self._done : size])
            self._done = size

    def finish(self, data: bytes | bytearray | memoryview) -> str:
        """Return the digest of all of `data`, which begins with what was taken in, in hex digits."""
        self._sha.update(memoryview(data)[self._done :])
        return self._sha.hexdigest()
