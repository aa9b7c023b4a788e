"""Texts that sort as the rows of an answer are ordered, and from which the next page goes on.

Newest study first, then series and instance number (no number last), then UIDs. The parts of the levels are joined by a
space, which sorts below every character of a UID.
"""

from __future__ import annotations

import re

_LOW, _HIGH, _END = 0x21, 0x7D, "~"
_TURNED = {code: _LOW + _HIGH - code for code in range(_LOW, _HIGH + 1)}
_ODD = re.compile(r"[^!-}]")
_LAST = "9" * 14
_NUMBER = re.compile(r"-?[0-9]{1,12}")
_SHIFT = 10**12


def descending(text: str) -> str:
    """Return a text that sorts the other way round than `text` does among its like; the empty one sorts last."""
    return _ODD.sub("!", text).translate(_TURNED) + _END


def study_cursor(date: str, time: str, uid: str) -> str:
    """Return the cursor of a study from its normalised date and time."""
    return descending(date) + descending(time) + uid.replace(" ", "_")


def numbered(number: str, uid: str) -> str:
    """Return what orders a series in its study, or an instance in its series."""
    place = f"{int(number) + _SHIFT:014d}" if _NUMBER.fullmatch(number) else _LAST
    return place + uid.replace(" ", "_")


def dates(low: str, high: str) -> tuple[str, str]:
    """Return between which texts, the second excluded, the cursors of studies of `low` to `high` lie; empty is open."""
    return descending(high) if high else "", descending(low) + "\x7f" if low else _END


def joined(*parts: str) -> str:
    """Return the cursor of a row from the parts of its levels, outermost first."""
    return " ".join(parts)


def parted(cursor: str, levels: int) -> tuple[str, ...]:
    """Return the parts of `cursor`, as many as `levels`; what is missing is empty."""
    parts = cursor.split(" ", levels - 1)
    return (*parts, *[""] * (levels - len(parts)))
