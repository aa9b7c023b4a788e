"""Matches of a query, shown: DICOM JSON a line, a table for people, or tabs where nobody looks on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicomnode.dicom.keys import name_of, tag_of

_NOT_PRINTABLE = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f]")  # a peer's values are not to move our cursor

Attributes = Mapping[str, Mapping[str, Any]]


class Answers:
    """Prints matches; `columns` are the paths that a table shows."""

    def __init__(self, columns: Sequence[str], *, as_json: bool) -> None:
        self._columns = columns
        self._as_json = as_json
        self._rows: list[list[str]] = []
        self.count = 0

    def add(self, one: Attributes) -> None:
        """Take a match; JSON is printed at once."""
        self.count += 1
        if self._as_json:
            print(json.dumps(one, ensure_ascii=False), flush=True)
        else:
            self._rows.append([_shown(one, path) for path in self._columns])

    def end(self) -> None:
        """Print the table."""
        if self._as_json:
            return
        headings = [name_of(tag_of(path.rpartition(".")[2])) for path in self._columns]
        console = Console()
        if not console.is_terminal:
            for row in (headings, *self._rows):
                print("\t".join(row))
            return
        table = Table(*headings)
        for row in self._rows:
            table.add_row(*map(Text, row))
        console.print(table)
        print(f"{self.count} found", file=sys.stderr)


def _shown(one: Attributes, path: str) -> str:
    """Return the values at `path`, those of several items after one another."""
    name, _, rest = path.partition(".")
    element = one.get(tag_of(name), {})
    values = element.get("Value", ())
    if rest:
        return " | ".join(_shown(item, rest) for item in values if isinstance(item, Mapping))
    return _NOT_PRINTABLE.sub("?", "\\".join(map(_text, values)))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(next((value[group] for group in ("Alphabetic", "Ideographic", "Phonetic") if group in value), ""))
    return "" if value is None else str(value)
