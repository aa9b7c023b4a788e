"""Value representations: how each is framed, and which one a tag has where the stream does not say (PS3.5 6.2, 7.1)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, private_dictionary_VR

SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""VRs whose explicit header has a length of 16 bits."""
LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""VRs whose explicit header has two reserved bytes and a length of 32 bits."""

NAMES: Final[dict[bytes, str]] = {vr: vr.decode() for vr in SHORT | LONG}
"""Every VR of the standard, from its two bytes to its name."""

BINARY: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
"""VRs whose value is bytes, inline or by reference, in DICOM JSON."""

_PUBLIC: dict[int, str] = {tag: entry[0] for tag, entry in DicomDictionary.items()}


def public(tag: int) -> str | None:
    """Return the VR of a standard attribute, "US or SS" and the like included; None for one that is not known."""
    return _PUBLIC.get(tag) or _repeating(tag)


@lru_cache(maxsize=4096)
def _repeating(tag: int) -> str | None:
    """Look `tag` up among the patterns of the dictionary, such as 60xx,3000; group lengths are UL."""
    if tag & 0x10000:
        return None
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None if tag & 0xFFFF else "UL"


@lru_cache(maxsize=4096)
def private(tag: int, creator: str) -> str:
    """Return the VR of a private attribute under `creator`: LO for a creator itself, UN where nothing is known.

    Source: PS3.5 7.8.1.
    """
    element = tag & 0xFFFF
    if 0x10 <= element < 0x100:
        return "LO"
    if not creator or element < 0x100:
        return "UN"
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"
