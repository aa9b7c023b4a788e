"""The Markdown of the statement: headings, paragraphs, tables."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence

_WIDTH = 120


def heading(number: str, title: str) -> str:
    """Return a heading as deep as its number."""
    return f"{'#' * (2 + number.count('.'))} {number} {title}"


def prose(text: str) -> str:
    """Return paragraphs and lists as they are written in the code, without what indents them there, wrapped anew."""
    return joined(_block(block) for block in inspect.cleandoc(text).split("\n\n"))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; a word for one without rows."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(heads), "|" + "---|" * len(heads), *lines]) if lines else "None."


def joined(parts: Iterable[str]) -> str:
    """Return the parts of a section as one text."""
    return "\n\n".join(part for part in parts if part)


def code(text: object) -> str:
    """Return `text` as it is typed."""
    return f"`{text}`"


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _block(text: str) -> str:
    """Return a paragraph, or the items of a list, each filled to the width of the page; code stays as it is."""
    return text if text.startswith("```") else "\n".join(_filled(part) for part in re.split(r"\n(?=- )", text))


def _filled(part: str) -> str:
    indent = "  " if part.startswith("- ") else ""
    text = " ".join(part.split())
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
