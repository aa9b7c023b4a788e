from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom import inflate
from dicomnode.dicom.inflate import heads
from dicomnode.errors import BadInstance


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@given(st.binary(max_size=50), st.integers(0, 20_000))
def test_the_last_head_is_the_whole(seed: bytes, times: int) -> None:
    data = seed * times
    found = list(heads(memoryview(deflated(data))))
    assert found[-1] == (data, True)
    assert all(data.startswith(head) and not whole for head, whole in found[:-1])
    sizes = [len(head) for head, _ in found]
    assert sizes == sorted(sizes)


def test_heads_grow_twofold() -> None:
    sizes = [len(head) for head, _ in heads(deflated(bytes(1_000_000)))]
    assert sizes == [65536, 131072, 262144, 524288, 1_000_000]


def test_a_cut_stream_is_never_whole() -> None:
    data = bytes(range(256)) * 1000
    found = list(heads(deflated(data)[:-5]))
    assert not any(whole for _, whole in found)
    assert data.startswith(found[-1][0])


def test_what_is_not_deflated_is_refused() -> None:
    with pytest.raises(BadInstance, match="cannot be inflated"):
        list(heads(b"\xff\xff\xff\xff"))


def test_bytes_behind_the_stream_do_no_harm() -> None:
    assert list(heads(deflated(b"data") + b"\0"))[-1] == (b"data", True)


def test_a_bomb_is_not_inflated_beyond_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "MAX_BYTES", 1 << 20)
    most = 0
    with pytest.raises(BadInstance, match="had to be inflated"):  # noqa: PT012
        for head, _ in heads(deflated(bytes(1 << 24))):
            most = len(head)
    assert most <= 1 << 20
