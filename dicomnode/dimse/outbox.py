"""Small messages on their way out: what is said before the event loop turns leaves in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from dicomnode.dimse.protocol import UpperLayer
from dicomnode.errors import PeerError

_ENOUGH = 64 * 1024  # bytes that wait


class Outbox:
    """Gathers PDUs of one association. What is sent past it must be preceded by `flush`."""

    def __init__(self, layer: UpperLayer) -> None:
        self._layer = layer
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def put(self, parts: Iterable[bytes | memoryview]) -> None:
        """Have whole PDUs sent before the loop turns. Raises: PeerError, the association is over."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._turn)
        for part in parts:
            self._parts.append(part)
            self._size += len(part)
        if self._size >= _ENOUGH:
            self.flush()

    def flush(self) -> None:
        """Send what waits. Raises: PeerError, the association is over."""
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            self._layer.send(b"".join(parts))

    def _turn(self) -> None:
        with suppress(PeerError):  # whoever puts the next part is told
            self.flush()
