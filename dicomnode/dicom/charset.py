"""Specific Character Set: from the bytes of a text value to text and back.

Reading never raises: what cannot be read is U+FFFD. Writing raises where a set lacks a character.

Source: PS3.3 C.12.1.1.2, PS3.5 6.1.2.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from typing import Final

import msgspec
from pydicom.charset import (
    CODES_TO_ENCODINGS,
    ENCODINGS_TO_CODES,
    STAND_ALONE_ENCODINGS,
    custom_encoders,
    python_encoding,
)

_DEFAULT = "latin-1"
_ASCII = "ascii"  # what the default repertoire is written in
_MAX_TERMS = 16
_ESCAPE = b"\x1b"
# The delimiters after which the first character set holds again (PS3.5 6.1.2.5.3).
_TEXT_DELIMITER = re.compile(rb"[\r\n\t\f]")
_FRAGMENTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_CHARACTER_SETS = re.compile(
    r"ascii|utf-8|iso8859-[0-9]+|cp12[0-9]{2}|gb18030|gbk|gb2312|big5|koi8-[ru]|euc_(?:jp|kr)|shift_jis|iso2022_jp(?:_2)?"
)
# These codecs of Python read and write the escape sequences themselves; of the others they are taken off. These sets
# stand where ASCII stood, so that it must be switched back to.
_KEEP_ESCAPES = frozenset({"iso2022_jp", "iso2022_jp_2"})
_TO_ASCII = b"\x1b(B"
_NOT_ALONE = frozenset({_DEFAULT, "shift_jis", *_KEEP_ESCAPES})
# What ends a component of a name, a value or a line, and with it the reach of an escape sequence.
_PARTS = re.compile(r"([\\^=\r\n\t\f]+)")


class Charset(msgspec.Struct, frozen=True):
    """The Python codecs of a Specific Character Set; `misspelt` tells that some term had to be guessed."""

    codecs: tuple[str, ...] = (_DEFAULT,)
    misspelt: bool = False

    def decode(self, value: bytes) -> str:
        """Return the text of `value`."""
        if _ESCAPE not in value:
            return value.decode(self.codecs[0], "replace")
        return "".join(self._fragment(part) for part in _FRAGMENTS.findall(value))

    def encode(self, text: str) -> bytes:
        """Return the bytes of `text`, with escape sequences where it needs them.

        Raises: UnicodeEncodeError, this character set lacks one of its characters.
        """
        if text.isascii():
            return text.encode("ascii")
        if len(self.codecs) == 1 and self.codecs[0] not in _NOT_ALONE:
            return text.encode(self.codecs[0])
        encoded = b""
        for part in _PARTS.split(text):
            # Not every reader takes a delimiter of names for the end of what an escape sequence began.
            encoded += self._part(part, begun=_ESCAPE in encoded)
        return encoded

    def _part(self, text: str, *, begun: bool) -> bytes:
        """Return the bytes of a text with no delimiter in it, each stretch in the set that holds most of it.

        `begun` tells that escape sequences stand before it.
        """
        encoded, at, switched = b"", 0, False
        while at < len(text):
            number, codec, size = self._best(text[at:])
            piece = _written(text[at : at + size], codec)
            if switched and codec not in _KEEP_ESCAPES:
                encoded += _TO_ASCII
            if codec != _ASCII and codec not in _KEEP_ESCAPES and (at or number or begun):
                encoded += _escape(codec, piece)
            encoded += piece
            switched = codec in _KEEP_ESCAPES
            at += size
        return encoded + _TO_ASCII if switched else encoded

    def _best(self, text: str) -> tuple[int, str, int]:
        """Return the codec that writes most of the start of `text`: its place, its name, and how much that is."""
        sizes = []
        for number, name in enumerate(self.codecs):
            codec = _ASCII if name == _DEFAULT else name
            sizes.append((_size(text, codec), -number, codec))
        size, number, codec = max(sizes)
        if not size:
            raise UnicodeEncodeError("dicom", text, 0, 1, "not in this character set")
        return -number, codec, size

    def _fragment(self, part: bytes) -> str:
        first = self.codecs[0]
        if not part.startswith(_ESCAPE):
            return part.decode(first, "replace")
        size = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
        codec = CODES_TO_ENCODINGS.get(part[:size], "")
        if codec == "iso8859":
            codec = _DEFAULT
        elif codec not in self.codecs:
            return part.decode(first, "replace")
        try:
            return _switched(part, size, codec, first)
        except UnicodeError:
            return part.decode(first, "replace")


def _switched(part: bytes, size: int, codec: str, first: str) -> str:
    """Return the text of `part`, which starts with an escape sequence of `size` bytes that switches to `codec`."""
    if codec in _KEEP_ESCAPES:
        return part.decode(codec)
    text = part[size:]
    delimiter = _TEXT_DELIMITER.search(text)
    if delimiter is None:
        return text.decode(codec)
    return text[: delimiter.start()].decode(codec) + text[delimiter.start() :].decode(first)


def _written(text: str, codec: str) -> bytes:
    write = custom_encoders.get(codec)
    return write(text) if write else text.encode(codec)


def _size(text: str, codec: str) -> int:
    """Return how many characters at the start of `text` can be written by `codec` at once."""
    try:
        _written(text, codec)
    except UnicodeEncodeError as error:
        return error.start
    return len(text)


def _escape(codec: str, encoded: bytes) -> bytes:
    if codec == "shift_jis" and encoded[0] < 0x80:
        return b"\x1b(J"
    found = ENCODINGS_TO_CODES.get(codec)
    if found is None:
        raise UnicodeEncodeError("dicom", "", 0, 0, "a character set that cannot be switched to")
    return found


DEFAULT: Final = Charset()
"""The default repertoire, read as Latin 1 so that stray bytes above 7F survive."""


@lru_cache(maxsize=256)
def of(value: bytes) -> Charset:
    """Return how text is to be decoded under a Specific Character Set (0008,0005) of `value`, as encoded."""
    terms = [term.strip() for term in value.decode("latin-1").rstrip(" \0").split("\\")][:_MAX_TERMS]
    if terms[0] in STAND_ALONE_ENCODINGS:
        return Charset((python_encoding[terms[0]],), misspelt=len(terms) > 1)
    found: list[str] = []
    misspelt = False
    for number, term in enumerate(terms):
        if number and term in STAND_ALONE_ENCODINGS:
            misspelt = True
            continue
        codec = python_encoding.get(term) or _corrected(term)
        misspelt = misspelt or term not in python_encoding
        found.append(_DEFAULT if codec in (None, "iso8859") else codec or _DEFAULT)
    return Charset(tuple(found), misspelt)


def _corrected(term: str) -> str | None:
    """Return the codec that a misspelt term means: other separators, or the name of a Python codec for text."""
    if re.match(r"ISO[^_]IR", term):
        return python_encoding.get("ISO_IR" + term[6:])
    if re.match(r"ISO.2022.IR.", term):
        return python_encoding.get("ISO 2022 IR " + term[12:])
    try:
        found = codecs.lookup(term).name
    except (LookupError, ValueError):
        return None
    # Not every codec is a character set: "zip" would inflate bombs, "unicode_escape" is a language.
    return found if _CHARACTER_SETS.fullmatch(found) else None
