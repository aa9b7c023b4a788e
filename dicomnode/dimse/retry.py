"""How often, and after how long, something is tried again that may succeed later."""

from __future__ import annotations

import random

import msgspec


class Retry(msgspec.Struct, frozen=True):
    """Try at most `attempts` times, with pauses that double from `first_s` to `most_s` seconds.

    A pause is cut by chance to between half and all of that, so that many who failed together do not return together.
    """

    attempts: int = 5
    first_s: float = 1.0
    most_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row, in seconds."""
        longest = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret


ONCE = Retry(attempts=1)
