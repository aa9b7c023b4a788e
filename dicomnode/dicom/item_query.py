"""Questions to data sets that are at hand as DICOM JSON: which fit the keys, and what of them is asked for.

Unlike the index, such data sets are searched whole: every attribute can be a key, also within sequences (PS3.4 K.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dicomnode.dicom.matching import normalise, text_of
from dicomnode.dicom.residual import Named, Residual, parse_path, parse_residual, values_at
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Form
from dicomnode.model.query import Range

MOST_KEYS = 200
_LOWEST_TIME, _HIGHEST_TIME = "000000.000000", "235959.999999"

# Character set and level tell how to read a question; Timezone Offset From UTC is no key, but can be asked back. Nor is
# Pregnancy Status, which need not be matched (PS3.4 table K.6-1): dcmjs-dimse, asking it back, has no empty number.
_NOT_ASKED = frozenset({"00080005", "00080052"})
_NO_KEYS = _NOT_ASKED | {"00080201", "001021C0"}

# Dates with the times that belong to them (PS3.4 K.6.1.2.2, remark on Scheduled Procedure Step Start Date).
_MOMENTS = {
    ("00400100", "00400002"): ("00400100", "00400003"),
    ("00400244",): ("00400245",),
    ("00400250",): ("00400251",),
}


class Period(msgspec.Struct, frozen=True):
    """A range of dates and one of times that are one range together, from the first date's low time on.

    The ends are (date, time), normalised; an empty date is open.
    """

    date: tuple[str, ...]
    time: tuple[str, ...]
    low: tuple[str, str]
    high: tuple[str, str]

    def accepts(self, attributes: Mapping[str, Any]) -> bool:
        """Tell whether the moment lies within. One without a time may be any moment of its day."""
        date = normalise(Form.DATE, text_of(next(values_at(attributes, self.date), "")))
        if not date:
            return False
        time = normalise(Form.TIME, text_of(next(values_at(attributes, self.time), "")))
        earliest, latest = (date, time or _LOWEST_TIME), (date, time or _HIGHEST_TIME)
        return latest >= self.low and (not self.high[0] or earliest <= self.high)


class ItemQuery(msgspec.Struct, frozen=True):
    """What a data set must fit; `keys` are the paths of all that is asked, in tags apart by dots."""

    residuals: tuple[Residual, ...] = ()
    periods: tuple[Period, ...] = ()
    keys: frozenset[str] = frozenset()

    def accepts(self, attributes: Mapping[str, Any]) -> bool:
        """Tell whether a DICOM JSON object fits every key."""
        return all(one.accepts(attributes) for one in self.residuals) and all(
            one.accepts(attributes) for one in self.periods
        )


def parse_item_query(keys: Iterable[tuple[str, str]], *, fuzzy: bool = False) -> ItemQuery:
    """Return the question of pairs of a name (keyword, tag, or a path of them) and a text; empty texts ask nothing.

    Raises: BadRequest, naming the key at fault and never its value.
    """
    found: dict[tuple[str, ...], Residual] = {}
    asked = [(_named(name), text) for name, text in keys if text.strip()]
    if len(asked) > MOST_KEYS:
        raise BadRequest(f"more than {MOST_KEYS} keys")
    for named, text in asked:
        residual = parse_residual(named, text, fuzzy=fuzzy)
        if residual is not None:
            found[named.path] = residual
    periods = tuple(_periods(found))
    return ItemQuery(tuple(found.values()), periods, frozenset(".".join(named.path) for named, _ in asked))


def _named(name: str) -> Named:
    named = parse_path(name)
    if named is None:
        shown = "".join(c for c in name[:64] if c.isascii() and (c.isalnum() or c == ".")) or "a key"
        raise BadRequest(f"{shown} is no attribute that can be asked for")
    return named


def _periods(found: dict[tuple[str, ...], Residual]) -> Iterator[Period]:
    """Yield the pairs of ranges that are one range together, and take them out of `found`."""
    for date_path, time_path in _MOMENTS.items():
        date, time = found.get(date_path), found.get(time_path)
        if date is None or time is None or not (isinstance(date.match, Range) and isinstance(time.match, Range)):
            continue
        del found[date_path], found[time_path]
        low = (date.match.low, time.match.low or _LOWEST_TIME) if date.match.low else ("", "")
        yield Period(date_path, time_path, low, (date.match.high, time.match.high or _HIGHEST_TIME))


def identifier_keys(identifier: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the keys of an identifier with their texts, those within sequences as paths. Raises: BadRequest."""
    return list(_keys(identifier, ""))


def _keys(identifier: Mapping[str, Any], around: str) -> Iterator[tuple[str, str]]:
    for tag, element in identifier.items():
        values = element.get("Value") or []
        if not values or tag in _NO_KEYS:
            continue
        if element.get("vr") != "SQ":
            yield around + tag, "\\".join(text_of(value) for value in values)
            continue
        if len(values) > 1:
            raise BadRequest(f"{tag} is a sequence with more than one item")
        for item in values:
            yield from _keys(item, f"{around}{tag}.")


def answer(attributes: Mapping[str, Any], identifier: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `identifier` asks back of a data set: each of its attributes, empty where there is none.

    A sequence without attributes of its own is asked back whole; else each item gives what the key's item names.
    """
    return {
        tag: _answer_one(attributes.get(tag), element) for tag, element in identifier.items() if tag not in _NOT_ASKED
    }


def _answer_one(known: Any, asked: Mapping[str, Any]) -> Any:
    if known is None:
        return {"vr": asked["vr"]}
    item = next(iter(asked.get("Value") or ()), None)
    if known["vr"] == "SQ" and asked["vr"] == "SQ" and item:
        return {"vr": "SQ", "Value": [answer(one, item) for one in known.get("Value") or ()]}
    return known
