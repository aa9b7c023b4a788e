"""What a client will take, read forgivingly, and which of our representations that is (RFC 9110 12.5.1, PS3.18 8.7.4).

Nothing is transcoded here: an object is offered in the transfer syntaxes that it is kept in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

JSON = "application/dicom+json"
XML = "application/dicom+xml"
DICOM = "application/dicom"
OCTETS = "application/octet-stream"
MULTIPART = "multipart/related"

# One media type under several names in the field.
_ALIASES = {
    "image/x-jls": "image/jls",
    "image/jhc": "image/jphc",
    "image/dicom-rle": "image/x-dicom-rle",
    "application/json": JSON,
    "text/json": JSON,
    "application/xml": XML,
    "text/xml": XML,
}
# Two lossless and lossy forms of JPEG have one media type, and some clients know JPEG 2000 by either name.
_ALSO = {"image/jp2": {"image/jpx", "image/j2k"}, "image/jpx": {"image/jp2"}, "image/jls": {"image/jpeg-ls"}}

_LONGEST = 8 * 1024
_MOST_RANGES = 32
# Quoted strings may hold commas and semicolons.
_PIECES = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_PARAMETERS = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')


class Range(msgspec.Struct, frozen=True):
    """One media range: for multipart/related, `inner` is its `type` ("" where there is none)."""

    media_type: str
    inner: str = ""
    transfer_syntaxes: tuple[str, ...] = ()
    quality: float = 1.0

    def takes_syntax(self, uid: str) -> bool:
        """Tell whether `uid` may be sent; a client that names none takes what is stored."""
        return not self.transfer_syntaxes or "*" in self.transfer_syntaxes or uid in self.transfer_syntaxes


@lru_cache(maxsize=256)
def parse_accept(header: str, parameter: str = "") -> tuple[Range, ...]:
    """Return the media ranges of an `accept` query parameter or else of an Accept header, the most wanted first.

    Nothing asked for is `*/*`. What cannot be read is passed over (PS3.18 8.3.3.1).
    """
    # In a query parameter a plus sign has become a space.
    text = parameter.replace("dicom json", "dicom+json").replace("dicom xml", "dicom+xml") or header
    ranges = [found for piece in _PIECES.findall(text[:_LONGEST])[:_MOST_RANGES] if (found := _range(piece))]
    wanted = [found for found in ranges if found.quality > 0]
    return tuple(sorted(wanted, key=lambda found: -found.quality)) or ((Range("*/*"),) if not ranges else ())


def _range(piece: str) -> Range | None:
    media_type, *parameters = _PARAMETERS.findall(piece) or [""]
    media_type = media_type.strip().lower()
    if "/" not in media_type:
        return None
    inner, syntaxes, quality = "", [], 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        name, value = name.strip().lower(), value.strip().strip('"').strip()
        if name == "type":
            inner = _named(value.lower())
        elif name == "transfer-syntax" and value:
            syntaxes.append(value)
        elif name == "q":
            quality = _quality(value)
    return Range(_named(media_type), inner, tuple(syntaxes), quality)


def _named(media_type: str) -> str:
    return _ALIASES.get(media_type, media_type)


def _quality(text: str) -> float:
    return min(float(text), 1.0) if re.fullmatch(r"[01](\.\d{0,3})?", text) else 1.0


class Form(msgspec.Struct, frozen=True):
    """The representation that was agreed upon: the media type of the (inner) body, and whether in multipart."""

    media_type: str
    multipart: bool


def choose_objects(ranges: Sequence[Range], stored: frozenset[str], *, single: bool) -> Form | None:
    """Return how to send whole objects of the `stored` transfer syntaxes; `single`: there is just one object."""
    for asked in ranges:
        if not all(asked.takes_syntax(uid) for uid in stored):
            continue
        if asked.media_type in ("*/*", "multipart/*") or (
            asked.media_type == MULTIPART and asked.inner in ("", "*/*", "application/*", DICOM)
        ):
            return Form(DICOM, multipart=True)
        if single and asked.media_type in (DICOM, "application/*"):
            return Form(DICOM, multipart=False)
    return None


def choose_bulk(ranges: Sequence[Range], media_type: str, syntax: str, *, single: bool) -> Form | None:
    """Return how to send frames or a value that are `media_type` in transfer `syntax`; `single`: there is just one."""
    for asked in ranges:
        if not asked.takes_syntax(syntax):
            continue
        if asked.media_type in ("*/*", "multipart/*"):
            return Form(OCTETS, multipart=True)
        if asked.media_type == MULTIPART:
            form = _bulk_type(asked.inner or OCTETS, media_type)
            if form:
                return Form(form, multipart=True)
        elif single:
            form = _bulk_type(asked.media_type, media_type)
            if form:
                return Form(form, multipart=False)
    return None


def _bulk_type(asked: str, stored: str) -> str:
    """Return the media type to label `stored` bytes with for one who takes `asked`; empty where that cannot be."""
    if asked in ("*/*", OCTETS, "application/*"):
        return OCTETS
    if asked == stored or asked in _ALSO.get(stored, ()):
        return asked
    return stored if asked.endswith("/*") and stored.startswith(asked[:-1]) else ""


def choose_text(ranges: Sequence[Range], offered: Sequence[str]) -> str | None:
    """Return which of the `offered` media types of a query, metadata or a store's answer to send."""
    for asked in ranges:
        if asked.media_type in ("*/*", "application/*"):
            return offered[0]
        if asked.media_type in offered:
            return asked.media_type
    return None


def wants_bulk(ranges: Sequence[Range]) -> bool:
    """Tell whether a client that names an instance wants its frames: some viewers ask for the pixels in this way."""
    return bool(ranges) and all(
        asked.inner == OCTETS or asked.inner.startswith("image/") or asked.media_type.startswith("image/")
        for asked in ranges
    )
