"""How a command names what it looks for: `-k Keyword=value`, by keyword, tag or path through sequences."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from dicomnode.dicom.keys import attributes_of
from dicomnode.errors import BadRequest, ConfigError

_HELP = (
    "what to match: Keyword=value, gggg,eeee=value or Sequence.Keyword=value; wildcards, ranges and lists as in "
    "C-FIND. Without =value: what to be told. Repeatable"
)


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the keys."""
    parser.add_argument("-k", "--key", dest="keys", action="append", default=[], metavar="KEY[=VALUE]", help=_HELP)


def add_level(parser: argparse.ArgumentParser) -> None:
    """Add the level and the information model of a query or retrieval."""
    parser.add_argument(
        "--level", choices=("patient", "study", "series", "image"), default="study", help="default: study"
    )
    parser.add_argument(
        "--root", choices=("study", "patient"), default="study", help="information model; default: study"
    )


def keys_of(words: Iterable[str], defaults: Iterable[str] = ()) -> dict[str, str]:
    """Return the keys, and `defaults` to be told beside them. Raises: ConfigError, when one names no attribute."""
    keys = dict.fromkeys(defaults, "")
    for word in words:
        name, _, value = word.partition("=")
        keys[name.strip()] = value
        try:
            attributes_of({name.strip(): value})
        except BadRequest as error:
            raise ConfigError(f"-k {word}", str(error)) from None
    return keys
