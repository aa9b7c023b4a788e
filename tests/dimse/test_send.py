"""Messages cut into PDUs: every fragment is even, whatever the length of the object and of the pieces it comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.config import PeerTable
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.send import data_set_parts, paired
from tests.dimse.peers import Recording, listening

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def _fragments(parts: Sequence[bytes | memoryview]) -> list[tuple[int, bytes]]:
    """Return the control byte and the content of each PDU."""
    raw, found = b"".join(parts), []
    while raw:
        size = int.from_bytes(raw[2:6], "big")
        assert raw[0] == 4
        assert int.from_bytes(raw[6:10], "big") == size - 4
        found.append((raw[11], raw[12 : 6 + size]))
        raw = raw[6 + size :]
    return found


@given(data=st.binary(max_size=200), half=st.integers(1, 20))
def test_fragments_are_even_and_the_last_one_says_so(data: bytes, half: int) -> None:
    fragments = _fragments(list(data_set_parts(1, data, 2 * half, last=True)))
    assert [control for control, _ in fragments] == [0] * (len(fragments) - 1) + [2]
    assert all(len(content) % 2 == 0 and len(content) <= 2 * half for _, content in fragments)
    assert b"".join(content for _, content in fragments) == data + bytes(len(data) % 2)


@given(data=st.binary(max_size=50))
def test_what_is_left_of_pairs_is_one_byte_or_none(data: bytes) -> None:
    pairs, left = paired(data)
    assert (bytes(pairs) + left, len(pairs) % 2, len(left)) == (data, 0, len(data) % 2)


@pytest.mark.parametrize("pieces", [[b"a"], [b"abc", b"de", b"f"], [b"ab", b"c"], [b"ab", b"cd"], [b"", b"abc"]])
async def test_pieces_of_any_length_are_one_object(pieces: list[bytes]) -> None:
    async def rest() -> AsyncIterator[bytes]:
        for piece in pieces[1:]:
            yield piece

    recording = Recording()
    async with listening(recording) as listener:
        peer = PeerTable("X", *listener.address)
        async with Association.request(peer, "ME", proposals([(CT, (EXPLICIT,))])) as association:
            requester = association.requester
            assert await requester.store(CT, "1.2.3", EXPLICIT, pieces[0], rest()) == 0
    whole = b"".join(pieces)
    assert recording.data == [whole + bytes(len(whole) % 2)]
