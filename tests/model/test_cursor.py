from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dicomnode.model.cursor import dates, descending, joined, numbered, parted, study_cursor

_dates = st.one_of(st.just(""), st.dates().map(lambda day: f"{day:%Y%m%d}"), st.text("0129.-", max_size=9))
_uids = st.text("0123456789.", min_size=1, max_size=64)


@given(_dates, _dates)
def test_descending_turns_the_order_round(one: str, two: str) -> None:
    assert (descending(one) < descending(two)) is (one > two)


@given(_dates, _dates, _uids, _uids)
def test_studies_are_ordered_by_date_then_time_then_uid(one: str, two: str, uid: str, other: str) -> None:
    if one != two:
        assert (study_cursor(one, "", uid) < study_cursor(two, "", other)) is (one > two)
        assert (study_cursor("2024", one, uid) < study_cursor("2024", two, other)) is (one > two)
    assert (study_cursor(one, two, uid) < study_cursor(one, two, other)) is (uid < other)


_day = st.dates().map(lambda day: f"{day:%Y%m%d}")


@given(_dates, _day, _day, st.booleans(), st.booleans())
def test_dates_span_what_the_range_accepts(date: str, low: str, high: str, open_low: bool, open_high: bool) -> None:
    low, high = "" if open_low else low, "" if open_high else high
    first, end = dates(low, high)
    inside = bool(date) and low <= date and (not high or date <= high)
    assert (first <= study_cursor(date, "", "1.2") < end) is inside or (not low and not high)


@given(st.integers(-(10**12) + 1, 10**12 - 1), st.integers(-(10**12) + 1, 10**12 - 1), _uids, _uids)
def test_numbers_are_ordered_as_numbers(one: int, two: int, uid: str, other: str) -> None:
    if one != two:
        assert (numbered(str(one), uid) < numbered(str(two), other)) is (one < two)
    assert numbered(str(one), uid) < numbered("", other)
    assert numbered("", uid) < numbered("odd", uid + "1")


@given(st.lists(_uids, min_size=3, max_size=3), st.lists(_uids, min_size=3, max_size=3))
def test_joined_parts_sort_by_level_and_come_apart(one: list[str], two: list[str]) -> None:
    assert (joined(*one) < joined(*two)) is (one < two)
    assert list(parted(joined(*one), 3)) == one
    assert parted("a", 3) == ("a", "", "")
