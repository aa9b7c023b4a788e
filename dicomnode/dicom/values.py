"""Values: from an element's bytes to the inside of its DICOM JSON object (PS3.18 F.2), by VR.

Every encoder returns the text that follows `"vr":"XX"`: `,"Value":[…]`, `,"InlineBinary":"…"` or nothing for an empty
value. It raises ValueError where the bytes are no value of that VR; the caller then has UN or text to fall back on.
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Final, TypeAlias

from dicomnode.dicom.charset import Charset

Encoder: TypeAlias = Callable[[bytes, bool, Charset], str]

_PADDING = "\0 "
_BACKSLASH = "\\"
# A decimal string that already is a JSON number, short enough to be finite.
_NUMBER = r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,2})?"
_JSON_NUMBER = re.compile(_NUMBER, re.ASCII)
_JSON_NUMBERS = re.compile(rf"{_NUMBER}(?:\\{_NUMBER})*", re.ASCII)
_JSON_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_MAX_DIGITS = 400


def _joined(values: list[str]) -> str:
    return f',"Value":[{",".join(values)}]'


def _texts(values: list[str]) -> str:
    if len(values) == 1:
        return f',"Value":[{encode_basestring(values[0])}]' if values[0] else ""
    return _joined([encode_basestring(value) for value in values])


def _string(raw: bytes, _big: bool, _charset: Charset) -> str:
    return _texts(raw.decode("latin-1").rstrip(_PADDING).split("\\"))


def _ae(raw: bytes, _big: bool, _charset: Charset) -> str:
    return _texts([value.strip() for value in raw.decode("latin-1").split("\\")])


def _ui(raw: bytes, _big: bool, _charset: Charset) -> str:
    return _texts([value.strip() for value in raw.decode("latin-1").rstrip(_PADDING).split("\\")])


def _ur(raw: bytes, _big: bool, _charset: Charset) -> str:
    return _texts([raw.decode("latin-1").rstrip()])


def _text(raw: bytes, _big: bool, charset: Charset) -> str:
    return _texts([value.rstrip(_PADDING) for value in charset.decode(raw).split("\\")])


def _long_text(raw: bytes, _big: bool, charset: Charset) -> str:
    return _texts([charset.decode(raw).rstrip(_PADDING)])


_GROUPS = ('"Alphabetic":', '"Ideographic":', '"Phonetic":')


def _name(value: str) -> str:
    groups = value.rstrip("=").split("=")
    if not groups[0] and len(groups) == 1:
        return "null"
    pairs = zip(_GROUPS, groups, strict=False)
    return "{" + ",".join([label + encode_basestring(group) for label, group in pairs]) + "}"


def _pn(raw: bytes, _big: bool, charset: Charset) -> str:
    names = [_name(value) for value in charset.decode(raw.rstrip(b"\0 ")).split("\\")]
    return "" if names == ["null"] else _joined(names)


def number(value: float) -> str:
    """Return `value` as JSON: a number, or the string that PS3.18 F.2.3 has for what is none."""
    if math.isfinite(value):
        return repr(value)
    return '"NaN"' if math.isnan(value) else '"inf"' if value > 0 else '"-inf"'


def _decimal(text: str) -> str:
    if _JSON_NUMBER.fullmatch(text):
        return text
    if not text.strip():
        return "null"
    try:
        value = float(text)
    except ValueError:
        return encode_basestring(text)
    return repr(value) if math.isfinite(value) else encode_basestring(text.strip())


def _ds(raw: bytes, _big: bool, _charset: Charset) -> str:
    text = raw.decode("latin-1").strip().rstrip(_PADDING)
    if _JSON_NUMBERS.fullmatch(text):
        return f',"Value":[{text.replace(_BACKSLASH, ",")}]'
    return _joined([_decimal(value) for value in text.split("\\")]) if text else ""


def _integer(text: str) -> str:
    if _JSON_INTEGER.fullmatch(text):
        return text
    stripped = text.strip()
    if not stripped:
        return "null"
    try:
        return str(int(stripped)) if len(stripped) < _MAX_DIGITS else encode_basestring(stripped)
    except ValueError:
        return _fraction(stripped)


def _fraction(text: str) -> str:
    """Return what is no integer as one if it is one after all ("1.0"), else as the text that was sent."""
    try:
        value = float(text)
    except ValueError:
        return encode_basestring(text)
    return str(int(value)) if math.isfinite(value) and value == int(value) else encode_basestring(text)


def _is(raw: bytes, _big: bool, _charset: Charset) -> str:
    text = raw.decode("latin-1").rstrip(_PADDING)
    return _joined([_integer(value) for value in text.split("\\")]) if text.strip() else ""


def _at(raw: bytes, big: bool, _charset: Charset) -> str:
    if len(raw) < 4:
        raise ValueError("an AT shorter than a tag")
    halves = struct.unpack_from(f"{'>' if big else '<'}{len(raw) // 4 * 2}H", raw)
    return _joined([f'"{group:04X}{element:04X}"' for group, element in zip(halves[::2], halves[1::2], strict=True)])


def _integers(code: str) -> Encoder:
    size = struct.calcsize("<" + code)
    little, big_one = struct.Struct("<" + code), struct.Struct(">" + code)

    def encode(raw: bytes, big: bool, _charset: Charset) -> str:
        if len(raw) == size:
            return f',"Value":[{(big_one if big else little).unpack(raw)[0]}]'
        if len(raw) % size:
            raise ValueError("not a whole number of values")
        values = struct.unpack(f"{'>' if big else '<'}{len(raw) // size}{code}", raw)
        return _joined([str(value) for value in values]) if values else ""

    return encode


def _floats(code: str) -> Encoder:
    size = struct.calcsize("<" + code)

    def encode(raw: bytes, big: bool, _charset: Charset) -> str:
        if len(raw) % size:
            raise ValueError("not a whole number of values")
        values = struct.unpack(f"{'>' if big else '<'}{len(raw) // size}{code}", raw)
        return _joined([number(value) for value in values]) if values else ""

    return encode


def binary(raw: bytes, _big: bool = False, _charset: Charset | None = None) -> str:
    """Return bytes of any kind as they are, in Base64."""
    return f',"InlineBinary":"{binascii.b2a_base64(raw, newline=False).decode()}"' if raw else ""


ENCODERS: Final[dict[str, Encoder]] = {
    "AE": _ae,
    **dict.fromkeys(("AS", "CS", "DA", "DT", "TM"), _string),
    "UI": _ui,
    "UR": _ur,
    **dict.fromkeys(("SH", "LO", "UC"), _text),
    **dict.fromkeys(("ST", "LT", "UT"), _long_text),
    "PN": _pn,
    "DS": _ds,
    "IS": _is,
    "AT": _at,
    **{vr: _integers(code) for vr, code in zip(("US", "SS", "UL", "SL", "UV", "SV"), "HhLlQq", strict=True)},
    "FL": _floats("f"),
    "FD": _floats("d"),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), binary),
}
"""Every VR but SQ."""


def encode(vr: str, raw: bytes, big_endian: bool, charset: Charset) -> str:
    """Return the inside of a value's DICOM JSON object, `"vr":"XX"` and what follows; UN where `raw` is not of `vr`."""
    try:
        return f'"vr":"{vr}"{ENCODERS[vr](raw, big_endian, charset) if raw else ""}'
    except ValueError:
        return f'"vr":"UN"{binary(raw)}'
