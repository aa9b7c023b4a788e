"""Cheap checks of values against their VR (PS3.5 6.2). A fault is a warning, never a refusal, and quotes no value."""

from __future__ import annotations

import re
from typing import Final

from dicomnode.dicom.charset import Charset

_UI = rb"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*"
_DA = rb"(?:[0-9]{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]))?"
_TM = rb"(?:(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?)?"
_IS = rb"(?: *[+-]?[0-9]{1,11})?"
_CS = rb"[A-Z0-9_ ]*"

_PATTERNS: Final = {vr: re.compile(p) for vr, p in {"UI": _UI, "DA": _DA, "TM": _TM, "IS": _IS, "CS": _CS}.items()}
_MOST: Final[dict[str, int]] = {"AE": 16, "CS": 16, "IS": 12, "LO": 64, "SH": 16, "UI": 64}


def _any_number_of(value: bytes, most: int) -> re.Pattern[bytes]:
    """Return what whole values match that need no closer look: each short enough in bytes, too."""
    one = rb"(?=[^\\]{0,%d}(?:\\|\Z))%b *" % (most, value)
    return re.compile(rb"%b(?:\\%b)*\0?" % (one, one))


_SURELY_GOOD: Final = {
    "UI": re.compile(_UI + rb"(?<!.{65})\0?", re.DOTALL),
    "DA": re.compile(_DA + rb" *"),
    "TM": re.compile(_TM + rb" *"),
    "IS": _any_number_of(_IS, 12),
    **{vr: _any_number_of(_CS if vr == "CS" else rb"[^\\\0]*", _MOST[vr]) for vr in ("AE", "CS", "LO", "SH")},
}


def fault(keyword: str, vr: str, value: bytes, charset: Charset) -> str:
    """Return a sentence on what is wrong with the value of the attribute `keyword`; "" where nothing is."""
    good = _SURELY_GOOD.get(vr)
    if good is None or good.fullmatch(value):
        return ""
    pattern, most = _PATTERNS.get(vr), _MOST.get(vr)
    # Trailing NUL is the padding of UI, and too frequent elsewhere to speak of.
    for part in value.rstrip(b"\0 ").split(b"\\"):
        if most is not None and len(part) > most and len(charset.decode(part).strip()) > most:
            return f"{keyword} has a value longer than {most} characters"
        if pattern is not None and pattern.fullmatch(part.rstrip(b" ")) is None:
            return f"{keyword} has a value that is no valid {vr}"
    return ""
