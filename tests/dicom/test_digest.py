from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom.digest import Digest


@given(st.binary(max_size=100), st.lists(st.integers(1, 200_000), max_size=6))
def test_it_is_the_digest_however_the_data_come(seed: bytes, steps: list[int]) -> None:
    size = sum(steps) + len(seed)
    data = (seed * (size // max(len(seed), 1) + 1))[:size] if seed else bytes(size)
    digest, here = Digest(), 0
    for step in steps:
        here += step
        digest.advance(memoryview(data), here)
    assert digest.finish(data) == hashlib.sha256(data).hexdigest()
