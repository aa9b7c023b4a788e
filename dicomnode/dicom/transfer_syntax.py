"""Transfer syntaxes: how the bytes of a data set are to be read, and what a frame of it is called on the web."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from pydicom._uid_dict import UID_dictionary

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
GE_PRIVATE_IMPLICIT_VR: Final = "1.2.840.113619.5.2"
"""GE's private syntax: implicit VR little endian, but pixel data in big-endian words."""

_OCTETS = "application/octet-stream"


class TransferSyntax(msgspec.Struct, frozen=True):
    """How a data set is encoded. `media_type` is that of one frame as stored; `known` is False for a guess.

    Source: PS3.5 10 and A; PS3.18 8.7.3.3.
    """

    uid: str
    name: str
    implicit: bool = False
    big_endian: bool = False
    deflated: bool = False
    encapsulated: bool = False
    media_type: str = _OCTETS
    known: bool = True


# The last components under 1.2.840.10008.1.2, by the media type of a frame (PS3.18 table 8.7.3-5). RLE keeps the
# name that viewers in the field know.
_ENCAPSULATED: dict[str, tuple[str, ...]] = {
    "image/jpeg": tuple(f"4.{n}" for n in (*range(50, 67), 70)),
    "image/jls": ("4.80", "4.81"),
    "image/jp2": ("4.90", "4.91"),
    "image/jpx": ("4.92", "4.93"),
    "image/jphc": ("4.201", "4.202", "4.203"),
    "image/jxl": ("4.110", "4.111", "4.112"),
    "image/x-dicom-rle": ("5",),
    "video/mpeg": ("4.100", "4.100.1", "4.101", "4.101.1"),
    "video/mp4": tuple(f"4.{n}{part}" for n in range(102, 107) for part in ("", ".1")),
    "video/H265": ("4.107", "4.108"),
    _OCTETS: ("1.98", "8.1"),
}
# Explicit VR little endian with no pixel data inside: JPIP refers to it, SMPTE ST 2110 sends it beside.
_NO_PIXELS = ("4.94", "4.204", "7.1", "7.2", "7.3")
_DEFLATED_NO_PIXELS = ("4.95", "4.205")

# Younger than the dictionary of the pydicom we build upon.
_RECENT_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def _name(uid: str) -> str:
    return _RECENT_NAMES.get(uid) or UID_dictionary[uid][0]


def _standard() -> dict[str, TransferSyntax]:
    native = [
        TransferSyntax(IMPLICIT_VR_LITTLE_ENDIAN, _name(IMPLICIT_VR_LITTLE_ENDIAN), implicit=True),
        TransferSyntax(EXPLICIT_VR_LITTLE_ENDIAN, _name(EXPLICIT_VR_LITTLE_ENDIAN)),
        TransferSyntax(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, _name(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), deflated=True),
        TransferSyntax(EXPLICIT_VR_BIG_ENDIAN, _name(EXPLICIT_VR_BIG_ENDIAN), big_endian=True),
        TransferSyntax("1.2.840.10008.1.20", _name("1.2.840.10008.1.20"), implicit=True),
        TransferSyntax(GE_PRIVATE_IMPLICIT_VR, "GE Private Implicit VR, Big Endian Pixel Data", implicit=True),
    ]
    for last in (*_NO_PIXELS, *_DEFLATED_NO_PIXELS):
        uid = f"1.2.840.10008.1.2.{last}"
        native.append(TransferSyntax(uid, _name(uid), deflated=last in _DEFLATED_NO_PIXELS))
    for media_type, lasts in _ENCAPSULATED.items():
        for last in lasts:
            uid = f"1.2.840.10008.1.2.{last}"
            native.append(TransferSyntax(uid, _name(uid), encapsulated=True, media_type=media_type))
    return {syntax.uid: syntax for syntax in native}


STANDARD: Final[dict[str, TransferSyntax]] = _standard()
"""Every standard transfer syntax that a data set can be sent in, also the retired ones, and GE's private one.

Left out: RFC 2557 MIME (1.2.840.10008.1.2.6.1) and XML (…6.2), both retired, which no C-STORE data set has.
"""


def of(uid: str) -> TransferSyntax:
    """Return what is known of transfer syntax `uid`; an unknown one counts as explicit little endian, encapsulated.

    Source: PS3.5 10 and A.4 (what a new or private syntax is likely to be).
    """
    return STANDARD.get(uid) or _unknown(uid)


@lru_cache(maxsize=64)
def _unknown(uid: str) -> TransferSyntax:
    return TransferSyntax(uid, "unknown transfer syntax", encapsulated=True, known=False)
