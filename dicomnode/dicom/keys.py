"""Keys of a question as people write them, by keyword or tag and through sequences, made a DICOM JSON object."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from pydicom.datadict import keyword_dict, keyword_for_tag

from dicomnode.dicom.vr import public
from dicomnode.errors import BadRequest

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_WHOLE: Final = frozenset({"LT", "ST", "UT", "UR"})  # no backslash divides these
_INTEGERS: Final = frozenset({"SL", "SS", "SV", "UL", "US", "UV"})
_REALS: Final = frozenset({"FD", "FL"})
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def tag_of(name: str) -> str:
    """Return the tag, 8 hex digits, of an attribute named by keyword or as gggg,eeee. Raises: BadRequest."""
    if found := _TAG.fullmatch(name.strip()):
        return (found[1] + found[2]).upper()
    tag = keyword_dict.get(name.strip() or " ")  # the dictionary has attributes without a keyword
    if tag is None:
        near = difflib.get_close_matches(name, keyword_dict, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadRequest(f"{name!r} is neither the keyword nor the tag of an attribute{hint}")
    return f"{int(tag):08X}"


def name_of(tag: str) -> str:
    """Return the keyword of a tag, or the tag where it has none."""
    return keyword_for_tag(int(tag, 16)) or tag


def attributes_of(keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return `keys` as a DICOM JSON object.

    A name is a keyword, a tag, or several with dots between them, of which all but the last are sequences. A value is
    text as in a C-FIND (wildcards, ranges, `\\` between values), None or "" to be told, a list, or an element of DICOM
    JSON.

    Raises: BadRequest, for a name that is none, or a value that is not of its attribute's kind.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in keys.items():
        *sequences, last = name.split(".")
        inside = found
        for sequence in sequences:
            tag = tag_of(sequence)
            if public(int(tag, 16)) not in ("SQ", None):
                raise BadRequest(f"{sequence} is no sequence")
            inside = _item(inside.setdefault(tag, {"vr": "SQ", "Value": [{}]}))
        tag = tag_of(last)
        inside[tag] = dict(value) if isinstance(value, Mapping) else _element(last, tag, value)
    return found


def _item(sequence: dict[str, Any]) -> dict[str, dict[str, Any]]:
    items = sequence.setdefault("Value", [{}])
    item: dict[str, dict[str, Any]] = items[0]
    return item


def _element(name: str, tag: str, value: Any) -> dict[str, Any]:
    told = public(int(tag, 16)) or "LO"
    vr = told[:2] if told != "OB or OW" else "OB"
    values = _values(value, vr)
    if not values:
        return {"vr": vr}
    if vr == "SQ":
        raise BadRequest(f"{name} is a sequence: name what is in it, as in {name}.CodeValue=…")
    try:
        return {"vr": vr, "Value": [_value(one, vr) for one in values]}
    except ValueError:
        raise BadRequest(f"{name} takes no such value") from None


def _values(value: Any, vr: str) -> list[Any]:
    if value is None or value == "":
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str) and vr not in _WHOLE:
        return value.split("\\")
    return [value]


def _value(value: Any, vr: str) -> Any:
    if vr == "PN":
        return {group: part for group, part in zip(_GROUPS, str(value).split("="), strict=False) if part}
    if vr in _INTEGERS:
        return int(value)
    if vr in _REALS:
        return float(value)
    if vr == "AT":
        return tag_of(str(value))
    return str(value)
