"""The grammar of matching: what is compared with what, and how a query's text is read (PS3.4 C.2.2.2, PS3.18 8.3.4).

Both sides of a comparison pass through `normalise`, so that `model.query.Match` need only compare text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Attribute, Form, Level, searched_at
from dicomnode.model.instance import Fragments
from dicomnode.model.query import Match, NamePattern, OneOf, Range, Wildcard

_WILD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_PADDING = " \0\t\r\n"
_LONGEST_KEY = 64 * 1024


def normalise(form: Form, text: str) -> str:
    """Return `text` as columns of `form` hold it. What is not of the form stays as it is, without its padding."""
    return _NORMALISERS[form](text)


def _exact(text: str) -> str:
    return text.strip(_PADDING)


def _folded(text: str) -> str:
    if text.isascii():
        return " ".join(text.lower().replace("\0", " ").split())
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(unicodedata.normalize("NFKC", plain).casefold().replace("\0", " ").split())


def _name(text: str) -> str:
    groups = [_name_group(group) for group in text.split("=")]
    while groups and not groups[-1]:
        groups.pop()
    return "=".join(groups)


def _name_group(group: str) -> str:
    return "^".join(_folded(component) for component in group.split("^")).rstrip("^ ")


_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?", re.ASCII)


def _date(text: str) -> str:
    text = text.strip(_PADDING)
    found = _DATE.fullmatch(text)
    return "".join(found.groups()) if found else text


def _time(text: str) -> str:
    text = text.strip(_PADDING)
    found = _TIME.fullmatch(text)
    if not found:
        return text
    hours, minutes, seconds, fraction = found.groups()
    return f"{hours}{minutes or '00'}{seconds or '00'}.{(fraction or '').ljust(6, '0')}"


def _last_of_time(text: str) -> str:
    """Return the last moment that `text` may mean: `10` as an end is 10:59:59.999999."""
    found = _TIME.fullmatch(text.strip(_PADDING))
    if not found:
        return text
    hours, minutes, seconds, fraction = found.groups()
    return f"{hours}{minutes or '59'}{seconds or '59'}.{(fraction or '').ljust(6, '9')}"


_NUMBER = re.compile(r"([+-]?)0*(\d{1,18})", re.ASCII)


def _number(text: str) -> str:
    text = text.strip(_PADDING)
    found = _NUMBER.fullmatch(text)
    if not found:
        return text
    return "-" + found[2] if found[1] == "-" and found[2] != "0" else found[2]


_NORMALISERS: dict[Form, Callable[[str], str]] = {
    Form.EXACT: _exact,
    Form.FOLDED: _folded,
    Form.NAME: _name,
    Form.DATE: _date,
    Form.TIME: _time,
    Form.NUMBER: _number,
    Form.UID: _exact,
}


class _Element(msgspec.Struct, frozen=True):
    Value: list[Any] = []


def _decoder(level: Level) -> Callable[[str], Any]:
    fields = [(a.keyword, _Element | None, None) for a in searched_at(level)]
    rename = {a.keyword: a.tag for a in searched_at(level)}
    shape = msgspec.defstruct(f"{level.name.title()}Columns", fields, rename=rename, frozen=True)
    return msgspec.json.Decoder(shape).decode


_DECODERS = {level: _decoder(level) for level in Level}
_WANTED = {
    level: tuple((a.keyword, a.form, _NORMALISERS[a.form]) for a in searched_at(level) if a.form) for level in Level
}


def columns(fragments: Fragments) -> dict[str, str]:
    """Return the normalised text of every searched column that has one, by keyword; several values become one text.

    Values are joined by a backslash; names by `=`, so that each is a group that may fit. Raises: msgspec.DecodeError.
    """
    return {
        **_repeating(Level.PATIENT, fragments.patient),
        **_repeating(Level.STUDY, fragments.study),
        **_repeating(Level.SERIES, fragments.series),
        **_columns(Level.INSTANCE, fragments.instance),
    }


def _columns(level: Level, fragment: str) -> dict[str, str]:
    elements = _DECODERS[level](fragment)
    found = {}
    for keyword, form, normal in _WANTED[level]:
        element = getattr(elements, keyword)
        if element is not None and element.Value:
            values = element.Value
            plain = len(values) == 1 and form is not Form.NAME and isinstance(values[0], str)
            text = normal(values[0]) if plain else column(form, values)
            if text:
                found[keyword] = text
    return found


# A patient, a study and a series say the same for each of their instances.
_repeating = lru_cache(maxsize=512)(_columns)


def column(form: Form, values: list[Any]) -> str:
    """Return the normalised text of an element's DICOM JSON `values`."""
    if form is Form.NAME:
        return "=".join(filter(None, (_name(text_of(value)) for value in values)))
    return "\\".join(normalise(form, text_of(value)) for value in values)


def text_of(value: Any) -> str:
    """Return one DICOM JSON value as text; the groups of a person name are joined by `=` (PS3.18 F.2.2)."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        groups = [value.get(group) or "" for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=") if all(isinstance(group, str) for group in groups) else ""
    return "" if value is None else str(value)


def parse_match(attribute: Attribute, text: str, *, fuzzy: bool = False) -> Match | None:
    """Return what `text` asks of `attribute`, None for universal matching (PS3.4 C.2.2.2.3).

    `""` asks for an empty value. Lists are UIDs or coded strings apart by backslash or comma. With `fuzzy`, a name is a
    list of words, each of which begins a word of the name (PS3.18 8.3.4.2).

    Raises: BadRequest, which never quotes `text`.
    """
    text = text.strip(_PADDING)
    if len(text) > _LONGEST_KEY:
        raise BadRequest(f"{attribute.keyword}: the value is longer than {_LONGEST_KEY} characters")
    if not text:
        return None
    if text == '""':
        return OneOf(("",))
    form = attribute.form or form_of(attribute.vr)
    return _PARSERS.get(form, _parse_text)(attribute, form, text, fuzzy)


_FORMS = {
    "PN": Form.NAME,
    "DA": Form.DATE,
    "TM": Form.TIME,
    "UI": Form.UID,
    **dict.fromkeys(("IS", "US", "SS", "UL", "SL", "UV", "SV"), Form.NUMBER),
    **dict.fromkeys(("LO", "LT", "ST", "UT", "UC"), Form.FOLDED),
}


def form_of(vr: str) -> Form:
    """Return how values of `vr` are compared where an attribute has no form of its own."""
    return _FORMS.get(vr, Form.EXACT)


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


def _parse_text(attribute: Attribute, form: Form, text: str, _fuzzy: bool) -> Match | None:
    if attribute.vr in _WILD_VRS and _is_wild(text):
        pattern = normalise(form, text)
        return Wildcard(pattern) if pattern.strip("*") else None
    if attribute.vr == "CS":
        return OneOf(tuple(normalise(form, value) for value in re.split(r"[\\,]", text) if value.strip()))
    return OneOf((normalise(form, text),))


def _parse_uids(attribute: Attribute, form: Form, text: str, _fuzzy: bool) -> Match | None:
    values = tuple(dict.fromkeys(normalise(form, value) for value in re.split(r"[\\,]", text) if value.strip()))
    if not values:
        return None
    if _is_wild(text):
        if text.strip("*") == "":
            return None
        raise BadRequest(f"{attribute.keyword}: a UID cannot be asked for with wild cards")
    return OneOf(values)


def _parse_name(_attribute: Attribute, _form: Form, text: str, fuzzy: bool) -> Match | None:
    words = tuple(_folded(re.sub(r"[\^=,*?]", " ", text)).split())
    # A viewer that puts asterisks round what was typed still means words, once there are several.
    if fuzzy and words and (len(words) > 1 or not _is_wild(text)):
        return NamePattern(words, words=True)
    # A group that may be anything asks nothing beside another that may not.
    patterns = tuple(group for group in _name(text).split("=") if group.strip("*"))
    return NamePattern(patterns) if patterns else None


def _parse_range(attribute: Attribute, form: Form, text: str, _fuzzy: bool) -> Match | None:
    low, dash, high = (part.strip(_PADDING) for part in text.partition("-"))
    if not text.strip("*-"):
        return None
    pattern = _DATE if form is Form.DATE else _TIME
    if any(end and not pattern.fullmatch(end) for end in (low, high)):
        raise BadRequest(f"{attribute.keyword}: this is no {form.value} and no range of {form.value}s")
    if not dash:
        return OneOf((normalise(form, text),))
    return Range(normalise(form, low), (_date if form is Form.DATE else _last_of_time)(high))


_PARSERS: dict[Form, Callable[[Attribute, Form, str, bool], Match | None]] = {
    Form.UID: _parse_uids,
    Form.NAME: _parse_name,
    Form.DATE: _parse_range,
    Form.TIME: _parse_range,
}
