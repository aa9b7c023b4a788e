"""Identifiers: the data sets that DIMSE questions and answers carry, as DICOM JSON objects (PS3.7 9, PS3.18 F.2).

They are small and without pixel data. A DICOM JSON object is here a `dict` of tags in 8 hex digits, capitals, to
`{"vr": …, "Value": […]}`; texts are Unicode, so a character set only counts on the way in and out.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
from pydicom.valuerep import format_number_as_ds

from dicomnode.dicom import charset as charsets
from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.charset import Charset
from dicomnode.dicom.dicom_json import to_dicom_json
from dicomnode.dicom.json_writer import Memo
from dicomnode.dicom.scan import MAX_DEPTH
from dicomnode.dicom.vr import LONG, public
from dicomnode.errors import BadInstance, BadRequest

MAX_BYTES: Final = 1024 * 1024
"""A longer identifier is refused: 10,000 UIDs are 640 KB."""

UTF_8: Final = "ISO_IR 192"
SPECIFIC_CHARACTER_SET: Final = "00080005"

Attributes: TypeAlias = Mapping[str, Mapping[str, Any]]
"""A DICOM JSON object."""

_decode = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode
_MEMO = Memo()


def read_identifier(
    data: bytes | memoryview, transfer_syntax_uid: str, most: int = MAX_BYTES
) -> dict[str, dict[str, Any]]:
    """Return the data set `data`, texts decoded by its Specific Character Set, binary values inline.

    Group lengths and pixel data are left out. What is no value of its VR comes as text or as UN.

    Raises: BadRequest, which quotes no value: longer than `most` bytes, no data set, nested deeper than 64, or in a
        transfer syntax that is compressed.
    """
    syntax = transfer_syntax.of(transfer_syntax_uid)
    if syntax.deflated or syntax.encapsulated:
        raise BadRequest("identifiers are taken uncompressed only")
    if len(data) > most:
        raise BadRequest(f"the identifier is longer than {most} bytes")
    try:
        text = to_dicom_json(data, transfer_syntax_uid, None, memo=_MEMO)
    except BadInstance as error:
        raise BadRequest(f"the identifier is no data set: {error}") from None
    assert text is not None  # it is complete
    found = _decode(text)
    return {tag: _uids(tag, element) for tag, element in found.items() if not tag.endswith("0000")}


def _uids(tag: str, element: dict[str, Any]) -> dict[str, Any]:
    """Return `element`, a list of UIDs also where it came as UN, being longer than its own VR allows (PS3.5 6.2.2)."""
    if element["vr"] != "UN" or public(int(tag, 16)) != "UI":
        return element
    text = binascii.a2b_base64(element.get("InlineBinary", "")).decode("latin-1")
    return {"vr": "UI", "Value": [uid.strip("\0 ") for uid in text.split("\\")]}


def write_identifier(attributes: Attributes, transfer_syntax_uid: str, charset: str = "") -> bytes:
    """Return `attributes` as a data set, in the Specific Character Set `charset` if that can hold its texts.

    Otherwise it is in UTF-8. The data set names its character set, unless `charset` is "" and all of it is ASCII.

    Raises: BadRequest, naming the attribute whose JSON is no value of its VR.
    """
    told = {tag: element for tag, element in attributes.items() if tag != SPECIFIC_CHARACTER_SET}
    for terms in (charset, UTF_8):
        writer = ElementWriter(transfer_syntax_uid, terms)
        named = {SPECIFIC_CHARACTER_SET: _terms(terms)} if terms else {}
        try:
            return writer.data_set({**named, **told})
        except UnicodeEncodeError:
            continue
    raise BadRequest("a text that is no Unicode")


def _terms(charset: str) -> dict[str, Any]:
    return {"vr": "CS", "Value": charset.split("\\")}


class ElementWriter:
    """Writes DICOM JSON elements in one transfer syntax and one character set."""

    def __init__(self, transfer_syntax_uid: str, charset: str) -> None:
        syntax = transfer_syntax.of(transfer_syntax_uid)
        if syntax.deflated or syntax.encapsulated:
            raise BadRequest("identifiers are sent uncompressed only")
        self._implicit = syntax.implicit
        self._order = _order(">" if syntax.big_endian else "<")
        self._charset = charsets.of(charset.encode("latin-1", "replace"))

    def data_set(self, attributes: Attributes, depth: int = 0) -> bytes:
        """Return `attributes` as a data set, tags ascending. Raises: BadRequest, UnicodeEncodeError."""
        return b"".join([self.element(tag, attributes[tag], depth) for tag in sorted(attributes)])

    def element(self, tag: str, told: Mapping[str, Any], depth: int = 0) -> bytes:
        """Return the element `tag`. Raises: BadRequest; UnicodeEncodeError, the character set cannot hold its text."""
        try:
            number, vr = int(tag, 16), told["vr"]
            value = self._sequence(told, depth) if vr == "SQ" else self._value(vr, told)
        except UnicodeEncodeError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, struct.error, AttributeError):
            raise BadRequest(f"the JSON of {tag[:8]} is no value of its VR") from None
        return self._header(number, vr, len(value)) + value

    def empty(self, tag: str, vr: str) -> bytes:
        """Return the element `tag` without a value."""
        return self._header(int(tag, 16), vr, 0)

    def _header(self, tag: int, vr: str, length: int) -> bytes:
        order = self._order
        if self._implicit:
            return order.implicit(tag >> 16, tag & 0xFFFF, length)
        code = vr.encode("ascii")
        if code in LONG:
            return order.long(tag >> 16, tag & 0xFFFF, code, length)
        if length > 0xFFFF:
            return order.long(tag >> 16, tag & 0xFFFF, b"UN", length)  # PS3.5 6.2.2
        return order.short(tag >> 16, tag & 0xFFFF, code, length)

    def _sequence(self, told: Mapping[str, Any], depth: int) -> bytes:
        if depth >= MAX_DEPTH:
            raise BadRequest(f"sequences are nested deeper than {MAX_DEPTH}")
        items = [
            self.data_set({tag: one for tag, one in (item or {}).items() if tag != SPECIFIC_CHARACTER_SET}, depth + 1)
            for item in told.get("Value", ())
        ]
        return b"".join([self._order.implicit(0xFFFE, 0xE000, len(item)) + item for item in items])

    def _value(self, vr: str, told: Mapping[str, Any]) -> bytes:
        if "InlineBinary" in told:
            value = binascii.a2b_base64(told["InlineBinary"])
        else:
            values = told.get("Value")
            value = _WRITERS[vr](values, self._order.mark, self._charset) if values else b""
        if len(value) & 1:
            value += b"\0" if vr in _PADDED_WITH_ZERO else b" "
        return value


class _Order(msgspec.Struct, frozen=True):
    """How the headers of elements are packed in one byte order."""

    mark: str
    short: Callable[[int, int, bytes, int], bytes]
    long: Callable[[int, int, bytes, int], bytes]
    implicit: Callable[[int, int, int], bytes]


@lru_cache(maxsize=2)
def _order(mark: str) -> _Order:
    return _Order(
        mark,
        struct.Struct(f"{mark}HH2sH").pack,
        struct.Struct(f"{mark}HH2sxxL").pack,
        struct.Struct(f"{mark}HHL").pack,
    )


_Writer: TypeAlias = Callable[[list[Any], str, Charset], bytes]
_PADDED_WITH_ZERO = frozenset({"UI", "OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_LONGEST_DECIMAL = 16


def _plain(values: list[Any], _mark: str, _charset: Charset) -> bytes:
    return "\\".join([_text(value) for value in values]).encode("latin-1", "replace")


def _texts(values: list[Any], _mark: str, charset: Charset) -> bytes:
    return charset.encode("\\".join([_text(value) for value in values]))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _names(values: list[Any], _mark: str, charset: Charset) -> bytes:
    return charset.encode("\\".join([_name(value) for value in values]))


def _name(value: Any) -> str:
    if value is None or isinstance(value, str):  # some write names as plain texts
        return value or ""
    return "=".join([value.get(group) or "" for group in ("Alphabetic", "Ideographic", "Phonetic")]).rstrip("=")


def _decimals(values: list[Any], _mark: str, _charset: Charset) -> bytes:
    return "\\".join([_decimal(value) for value in values]).encode("latin-1", "replace")


def _decimal(value: Any) -> str:
    if isinstance(value, float):
        text = repr(value)
        return text if len(text) <= _LONGEST_DECIMAL else format_number_as_ds(value)
    return _whole(value)


def _integers(values: list[Any], _mark: str, _charset: Charset) -> bytes:
    return "\\".join([_whole(value) for value in values]).encode("latin-1", "replace")


def _whole(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        raise TypeError("no number")
    return str(int(value) if value == int(value) else value)


def _packed(code: str, kind: type[int] | type[float]) -> _Writer:
    def write(values: list[Any], mark: str, _charset: Charset) -> bytes:
        return struct.pack(f"{mark}{len(values)}{code}", *[kind(value) for value in values])

    return write


def _tags(values: list[Any], mark: str, _charset: Charset) -> bytes:
    numbers = [int(value, 16) for value in values]
    return b"".join([struct.pack(f"{mark}HH", number >> 16, number & 0xFFFF) for number in numbers])


_WRITERS: dict[str, _Writer] = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM", "UI", "UR"), _plain),
    **dict.fromkeys(("SH", "LO", "UC", "ST", "LT", "UT"), _texts),
    "PN": _names,
    "DS": _decimals,
    "IS": _integers,
    "AT": _tags,
    "FL": _packed("f", float),
    "FD": _packed("d", float),
    **{vr: _packed(code, int) for vr, code in zip(("US", "SS", "UL", "SL", "UV", "SV"), "HhLlQq", strict=True)},
}
