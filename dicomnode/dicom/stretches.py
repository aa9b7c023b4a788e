"""Stretches: runs of elements that were seen before, byte for byte, so that they need not be walked again.

Within a series most elements repeat. What follows from a stretch depends on its bytes alone, so equal bytes may be
answered from memory. Stretches end where elements vary, which is learnt by seeing them vary: what repeats only after
hundreds of data sets, as when a study is sent again, varies.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

MAX_ELEMENT_BYTES: Final = 256
_MAX_BYTES = 4096
_MAX_STRETCHES = 2048
_MAX_SEEN = 16384
_RECENT = 256  # data sets: enough for many series that come at the same time

T = TypeVar("T")


class Stretches(Generic[T]):
    """What follows from each stretch, by its bytes, and how long the last one was that began with the same 8 bytes.

    Bounded: it forgets everything once it is full.
    """

    __slots__ = ("known", "seen", "sizes", "turn")

    def __init__(self) -> None:
        self.sizes: dict[bytes, int] = {}
        self.known: dict[bytes, T] = {}
        self.seen: dict[bytes, int] = {}
        self.turn = 0  # rises with every data set

    def learn(self, stretch: bytes, meaning: T) -> None:
        """Keep what follows from `stretch`, unless it is too long."""
        if len(stretch) > _MAX_BYTES:
            return
        if len(self.known) >= _MAX_STRETCHES:
            self.known.clear()
            self.sizes.clear()
        self.known[stretch] = meaning
        self.sizes[stretch[:8]] = len(stretch)

    def is_old(self, element: bytes) -> bool:
        """Tell whether `element` was seen in one of the last data sets, or in this; from now on it was."""
        last = self.seen.get(element)
        if last is not None:
            self.seen[element] = self.turn
            return self.turn - last <= _RECENT
        if len(element) <= MAX_ELEMENT_BYTES:
            if len(self.seen) >= _MAX_SEEN:
                self.seen.clear()
            self.seen[element] = self.turn
        return False
