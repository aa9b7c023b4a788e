"""Matching of keys that no column holds, on the DICOM JSON of an entity, with the meaning of `model.query.Match`.

A path names an attribute, or one inside sequences, by keywords or tags apart by dots (PS3.18 8.3.4.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from dicomnode.dicom.matching import form_of, normalise, parse_match, text_of
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_TAG, Attribute, Form, Level
from dicomnode.model.query import Match, OneOf, Range

_DEEPEST = 8
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_DECIMAL = frozenset({"DS", "FD", "FL"})


class Named(msgspec.Struct, frozen=True):
    """An attribute that a query names: its tags as 8 hex digits, outermost sequence first, and the last one's VR."""

    path: tuple[str, ...]
    keyword: str
    vr: str


@lru_cache(maxsize=2048)
def parse_path(text: str) -> Named | None:
    """Return what `text` names, None for what is no attribute. A tag that is in no dictionary is one (VR UN)."""
    words = text.split(".")
    if len(words) > _DEEPEST:
        return None
    path, keyword, vr = [], "", "SQ"
    for word in words:
        one = _one(word) if vr in ("SQ", "UN") else None
        if one is None:
            return None
        tag, keyword, vr = one
        path.append(tag)
    return Named(tuple(path), keyword, vr)


def _one(word: str) -> tuple[str, str, str] | None:
    number = int(word, 16) if _TAG.fullmatch(word) else tag_for_keyword(word)
    if number is None or not word:  # the dictionary has retired attributes without a keyword
        return None
    tag = f"{number:08X}"
    try:
        return tag, keyword_for_tag(number) or tag, dictionary_VR(number)
    except KeyError:
        return tag, tag, "UN"


class Residual(msgspec.Struct, frozen=True):
    """What is asked of the attribute at `path`; any item of a sequence and any of several values may fit."""

    path: tuple[str, ...]
    form: Form
    vr: str
    match: Match

    def accepts(self, attributes: Mapping[str, Any]) -> bool:
        """Tell whether the DICOM JSON object `attributes` fits. An absent attribute counts as empty."""
        found = False
        for value in values_at(attributes, self.path):
            found = True
            if self.match.accepts(self._text(value)):
                return True
        return not found and self.match.accepts("")

    def _text(self, value: Any) -> str:
        return (
            _moment(text_of(value))
            if self.vr == "DT"
            else _decimal(value)
            if self.vr in _DECIMAL
            else self._plain(value)
        )

    def _plain(self, value: Any) -> str:
        return normalise(self.form, text_of(value))


def parse_residual(named: Named, text: str, *, fuzzy: bool = False) -> Residual | None:
    """Return what `text` asks of `named`, None for universal matching. Raises: BadRequest, never quoting `text`."""
    form = _form(named)
    if named.vr == "SQ":
        if text.strip():
            raise BadRequest(f"{named.keyword}: a sequence is asked for by the attributes within it, {named.keyword}.…")
        return None
    match: Match | None
    if named.vr == "DT":
        match = _parse_moment(named.keyword, text)
    elif named.vr in _DECIMAL:
        match = OneOf((_decimal(text),)) if text.strip() else None
    else:
        match = parse_match(Attribute(named.path[-1], named.keyword, named.vr, Level.INSTANCE, form), text, fuzzy=fuzzy)
    return None if match is None else Residual(named.path, form, named.vr, match)


def _form(named: Named) -> Form:
    """Return how values are compared: as the index compares them, where it has the attribute."""
    indexed = BY_TAG.get(named.path[-1])
    return (indexed.form if indexed else None) or form_of(named.vr)


def values_at(attributes: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Any]:
    """Yield every value of the attribute at `path` in a DICOM JSON object, those of all items of its sequences."""
    # No deeper than the path, which is capped.
    element = attributes.get(path[0])
    values = element.get("Value") if isinstance(element, Mapping) else None
    for value in values if isinstance(values, list) else ():
        if len(path) == 1:
            yield value
        elif isinstance(value, Mapping):
            yield from values_at(value, path[1:])


def _decimal(value: Any) -> str:
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        return str(value).strip()


_MOMENT = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:\.(\d{1,6}))?([+-]\d{4})?", re.ASCII)
_FIRST = ("", "01", "01", "00", "00", "00")
_LAST = ("", "12", "31", "23", "59", "59")


def _moment(text: str, *, last: bool = False) -> str:
    """Return a DT value as YYYYMMDDHHMMSS.FFFFFF, in UTC where it names its offset; absent parts are the first."""
    found = _MOMENT.fullmatch(text.strip())
    if not found:
        return text.strip()
    *parts, fraction, offset = found.groups()
    filled = "".join(part or fill for part, fill in zip(parts, _LAST if last else _FIRST, strict=True))
    whole = f"{filled}.{(fraction or '').ljust(6, '9' if last else '0')}"
    if not offset:
        return whole
    try:
        local = datetime.strptime(whole, "%Y%m%d%H%M%S.%f").replace(tzinfo=UTC)
        shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
        return (local - shift if offset[0] == "+" else local + shift).strftime("%Y%m%d%H%M%S.%f")
    except (ValueError, OverflowError):
        return whole


# A minus before four digits up to 1400 at the end of a moment is its offset from UTC (PS3.5 6.2, DT), not a range.
_RANGE = re.compile(r"([\d.]*(?:[+-](?:0\d|1[0-4])\d\d)?)-([\d.]*(?:[+-]\d{4})?)", re.ASCII)


def _parse_moment(keyword: str, text: str) -> Match | None:
    text = text.strip()
    if not text:
        return None
    if _MOMENT.fullmatch(text):
        return OneOf((_moment(text),))
    found = _RANGE.fullmatch(text)
    if not found or not any(found.groups()) or any(end and not _MOMENT.fullmatch(end) for end in found.groups()):
        raise BadRequest(f"{keyword}: this is no moment and no range of moments")
    low, high = found.groups()
    return Range(_moment(low) if low else "", _moment(high, last=True) if high else "")
