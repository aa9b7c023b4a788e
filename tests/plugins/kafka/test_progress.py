"""What is done of a partition, against a set of offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dicomnode_kafka.progress import ROOM, Progress, beyond

OFFSETS = st.lists(st.lists(st.integers(0, 60), max_size=8), max_size=12)


def read(progress: Progress, count: int) -> list[int]:
    return [offset for offset in range(progress.next, progress.next + count) if progress.reached(offset)]


@given(OFFSETS)
def test_what_is_done_in_any_order_is_done(batches: list[list[int]]) -> None:
    progress, done = Progress(0), set[int]()
    assert read(progress, 61) == list(range(61))
    for batch in batches:
        progress.settle_all(batch)
        done |= set(batch)
        assert progress.in_hand() == 61 - len(done)
    assert progress.base == next(offset for offset in range(62) if offset not in done)
    progress.again()
    assert read(progress, 61 - progress.base) == [offset for offset in range(61) if offset not in done]


@given(OFFSETS, st.integers(0, ROOM))
def test_what_was_committed_is_known_elsewhere_and_never_more_than_that(batches: list[list[int]], room: int) -> None:
    progress = Progress(0)
    read(progress, 61)
    for batch in batches:
        progress.settle_all(batch)
    done = {offset for batch in batches for offset in batch}
    base, text = progress.state(room)
    assert len(text) <= room
    elsewhere = Progress(base)
    elsewhere.resume(base, beyond(base, text), 61)
    again = read(elsewhere, 61 - base)
    assert set(again) >= set(range(61)) - done
    if room == ROOM:
        assert again == sorted(set(range(61)) - done)


def test_what_does_not_fit_comes_again_and_no_more() -> None:
    progress = Progress(0)
    read(progress, 5000)
    progress.settle_all(list(range(1, 5000, 2)))
    base, text = progress.state()
    assert (base, len(text) <= ROOM) == (0, True)
    ranges = beyond(base, text)
    assert 500 < len(ranges) < 2500
    assert all(start % 2 == 1 and stop == start + 1 for start, stop in ranges)


def test_offsets_that_are_not_there_are_done() -> None:
    progress = Progress(10)
    assert progress.reached(10)
    assert progress.reached(15), "compacted, or the mark of a transaction"
    progress.settle_all([10, 15])
    assert progress.state() == (16, "")


def test_what_was_never_read_cannot_be_done() -> None:
    progress = Progress(0)
    read(progress, 3)
    progress.settle_all([0, 1, 2, 500])
    assert progress.state() == (3, "")


def test_what_others_did_meanwhile_is_taken_in_and_what_is_in_hand_stays() -> None:
    progress = Progress(0)
    read(progress, 10)
    progress.settle_all([0, 1])
    progress.resume(5, [(7, 9)], 40)
    assert progress.base == 5
    assert read(progress, 10) == list(range(10, 20)), "5, 6 and 9 are in hand here"
    assert progress.in_hand() == 13


def test_a_text_of_others_says_nothing() -> None:
    assert beyond(3, "") == []
    assert beyond(3, "consumed by kafka-console-consumer") == []
    assert beyond(3, "done:1+1,zz") == []
    assert beyond(3, "done:") == []
    assert beyond(3, "done:1+2,a+1") == [(4, 6), (16, 17)]
