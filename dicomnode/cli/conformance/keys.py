"""How keys of queries are matched: tried on the functions that read them."""

from __future__ import annotations

from pydicom.datadict import dictionary_description

from dicomnode.dicom.matching import parse_match
from dicomnode.dicom.residual import Named, parse_residual
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Attribute, Level
from dicomnode.model.query import Match, NamePattern, OneOf, Range, Wildcard

_RANGES = {"DA": "20200102-20200304", "TM": "1011-1213", "DT": "20200102-20200304"}
_LIST = "1.2\\1.3"
_WILD = "A*B?"
_SINGLE = {"DA": "20200102", "TM": "1011", "DT": "2020"}


def description(tag: str) -> str:
    """Return what the standard calls an attribute."""
    return str(dictionary_description(int(tag, 16)))


def tag_text(tag: str) -> str:
    """Return a tag as the standard writes it."""
    return f"({tag[:4]},{tag[4:]})"


def kinds(attribute: Attribute) -> list[str]:
    """Return the kinds of matching of an attribute, in the words of PS3.4 C.2.2.2; universal matching is always one."""
    if attribute.vr == "SQ":
        return ["sequence"]
    found = []
    if isinstance(_asked(attribute, _SINGLE.get(attribute.vr, "1")), OneOf | NamePattern):
        found.append("single value")
    listed = _asked(attribute, _LIST)
    if isinstance(listed, OneOf) and len(listed.values) > 1:
        found.append("list of UID" if attribute.vr == "UI" else "list of values")
    if isinstance(_asked(attribute, _WILD), Wildcard | NamePattern):
        found.append("wild card")
    if attribute.vr in _RANGES and isinstance(_asked(attribute, _RANGES[attribute.vr]), Range):
        found.append("range")
    if _asked(attribute, '""') == OneOf(("",)):
        found.append("empty value")
    return found


def ignores_case(attribute: Attribute) -> bool:
    """Tell whether case and accents do not matter."""
    asked = _asked(attribute, "É*") or _asked(attribute, "É")
    text = {Wildcard: "pattern", NamePattern: "patterns", OneOf: "values"}
    return asked is not None and type(asked) in text and "e" in str(getattr(asked, text[type(asked)]))


def of_vr(vr: str) -> Attribute:
    """Return an attribute of `vr` that the index does not know."""
    return Attribute("00091001", "Unknown", vr, Level.INSTANCE)


def _asked(attribute: Attribute, text: str) -> Match | None:
    try:
        if attribute.form is not None:
            return parse_match(attribute, text)
        residual = parse_residual(Named((attribute.tag,), attribute.keyword, attribute.vr), text)
    except BadRequest:
        return None
    return residual.match if residual else None
