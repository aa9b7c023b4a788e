"""Specific Character Set: from the bytes of a text value to text. Nothing here raises: what cannot be read is U+FFFD.

Source: PS3.3 C.12.1.1.2, PS3.5 6.1.2.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from typing import Final

import msgspec
from pydicom.charset import CODES_TO_ENCODINGS, STAND_ALONE_ENCODINGS, python_encoding

_DEFAULT = "latin-1"
_MAX_TERMS = 16
_ESCAPE = b"\x1b"
# The delimiters after which the first character set holds again (PS3.5 6.1.2.5.3).
_TEXT_DELIMITER = re.compile(rb"[\r\n\t\f]")
_FRAGMENTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_CHARACTER_SETS = re.compile(
    r"ascii|utf-8|iso8859-[0-9]+|cp12[0-9]{2}|gb18030|gbk|gb2312|big5|koi8-[ru]|euc_(?:jp|kr)|shift_jis|iso2022_jp(?:_2)?"
)
# These codecs of Python read the escape sequences themselves; of the others they are taken off.
_KEEP_ESCAPES = frozenset({"iso2022_jp", "iso2022_jp_2", "iso_ir_58"})


class Charset(msgspec.Struct, frozen=True):
    """The Python codecs of a Specific Character Set; `misspelt` tells that some term had to be guessed."""

    codecs: tuple[str, ...] = (_DEFAULT,)
    misspelt: bool = False

    def decode(self, value: bytes) -> str:
        """Return the text of `value`."""
        if _ESCAPE not in value:
            return value.decode(self.codecs[0], "replace")
        return "".join(self._fragment(part) for part in _FRAGMENTS.findall(value))

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
