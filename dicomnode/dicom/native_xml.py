"""DICOM JSON as the Native DICOM Model in XML (PS3.19 A.1, PS3.18 F.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydicom.datadict import keyword_for_tag

from dicomnode.errors import BadInstance

_DEEPEST = 64
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
)
_TAIL = "</NativeDicomModel>\n"
# XML 1.0 has no way at all to write these (2.2).
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;", "\r": "&#13;"})
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")


def to_native_xml(attributes: Mapping[str, Any]) -> bytes:
    """Return a DICOM JSON object as one XML document. Raises: BadInstance where sequences nest deeper than 64."""
    return (_HEAD + "".join(_data_set(attributes, 0)) + _TAIL).encode()


def _data_set(attributes: Mapping[str, Any], depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise BadInstance(f"sequences nest deeper than {_DEEPEST}")
    for tag in sorted(attributes):
        element = attributes[tag]
        vr = element.get("vr", "UN")
        keyword = keyword_for_tag(int(tag, 16))
        named = f' keyword="{keyword}"' if keyword else ""
        yield f'<DicomAttribute tag="{_escape(tag)}" vr="{_escape(vr)}"{named}>'
        yield from _content(vr, element, depth)
        yield "</DicomAttribute>"


def _content(vr: str, element: Mapping[str, Any], depth: int) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f'<BulkData uri="{_escape(element["BulkDataURI"])}"/>'
    elif "InlineBinary" in element:
        yield f"<InlineBinary>{_escape(element['InlineBinary'])}</InlineBinary>"
    else:
        yield from _values(vr, element.get("Value") or (), depth)


def _values(vr: str, values: Sequence[Any], depth: int) -> Iterator[str]:
    for number, value in enumerate(values, 1):
        if vr == "SQ":
            yield f'<Item number="{number}">'
            yield from _data_set(value or {}, depth + 1)
            yield "</Item>"
        elif vr == "PN":
            yield f'<PersonName number="{number}">{_name(value or {})}</PersonName>'
        else:
            yield f'<Value number="{number}">{_escape(value)}</Value>'


def _name(value: Mapping[str, str]) -> str:
    return "".join(
        f"<{group}>{_name_group(value[group])}</{group}>"
        for group in ("Alphabetic", "Ideographic", "Phonetic")
        if value.get(group)
    )


def _name_group(group: str) -> str:
    parts = zip(_NAME_PARTS, group.split("^"), strict=False)
    return "".join(f"<{name}>{_escape(part)}</{name}>" for name, part in parts if part)


def _escape(value: Any) -> str:
    return "" if value is None else _UNWRITABLE.sub("\ufffd", str(value)).translate(_ESCAPES)
