"""A match becomes a condition of SQL that agrees with `Match.accepts`. Values are parameters, never part of SQL."""

from __future__ import annotations

import re

from dicomnode.model.query import Match, NamePattern, OneOf, Range, Wildcard
from dicomnode_postgres.tables import KEPT, clean

_TOO_LONG = 10_000  # no attribute is that long
_BEYOND = "\U0010ffff"
_SPACES = "".join(character for character in map(chr, range(0x3001)) if character.isspace())  # all there are
ALL, NONE = "true", "false"


class Parameters(list[object]):
    """The parameters of one statement, in order."""

    def mark(self, value: object, kind: str = "text") -> str:
        """Return what stands in SQL for `value`."""
        self.append(value)
        return f"${len(self)}::{kind}"


def condition(column: str, match: Match, parameters: Parameters) -> str:
    """Return the condition that `column` fits `match`."""
    match match:
        case OneOf(values):
            return _one_of(column, values, parameters)
        case Wildcard(pattern):
            return _wildcard(column, pattern, parameters)
        case Range(low, high):
            return _range(column, low, high, parameters)
        case NamePattern(patterns, words):
            return (_words if words else _groups)(column, patterns, parameters)


def _one_of(column: str, values: tuple[str, ...], parameters: Parameters) -> str:
    if len(values) == 1:
        return f"{column} = {parameters.mark(clean(values[0]))}"
    return f"{column} = ANY({parameters.mark([clean(value) for value in values], 'text[]')})"


def _wildcard(column: str, pattern: str, parameters: Parameters) -> str:
    pattern = re.sub(r"\*+", "*", pattern)
    if pattern == "*":
        return ALL
    if len(pattern) > _TOO_LONG:
        return NONE
    literal = _literal_start(pattern)
    if literal == pattern:
        return f"{column} = {parameters.mark(clean(pattern))}"
    fits = f"{column} LIKE {parameters.mark(_like(pattern))}"
    return f"({_starts(column, literal, parameters)} AND {fits})" if literal else fits


def _range(column: str, low: str, high: str, parameters: Parameters) -> str:
    above = f"{column} >= {parameters.mark(clean(low))}" if low else f"{column} > ''"
    return f"({above} AND {column} <= {parameters.mark(clean(high))})" if high else above


def _groups(column: str, patterns: tuple[str, ...], parameters: Parameters) -> str:
    """Return that any component group fits any of `patterns`."""
    if any(pattern and set(pattern) == {"*"} for pattern in patterns):
        return ALL
    patterns = tuple(pattern for pattern in patterns if len(pattern) <= _TOO_LONG)
    if not patterns:
        return NONE
    likes = parameters.mark([_like(pattern) for pattern in patterns], "text[]")
    fits = f"EXISTS (SELECT 1 FROM {_split(column)} AS part WHERE part LIKE ANY ({likes}))"  # noqa: S608
    starts = [_literal_start(pattern) for pattern in patterns]
    if not all(starts):
        return fits
    # A later group may be what fits: the index of the column is of use only for names that have one group.
    sieve = [*(_starts(column, start, parameters) for start in starts), f"position('=' IN {column}) > 0"]
    return f"(({' OR '.join(sieve)}) AND {fits})"


def _words(column: str, patterns: tuple[str, ...], parameters: Parameters) -> str:
    """Return that in any one component group each of `patterns` begins a word."""
    if not patterns:
        return ALL
    if any(re.search(r"[\s^=]", pattern) or len(pattern) > _TOO_LONG for pattern in patterns):
        return NONE
    spaces, plain = parameters.mark("^" + _SPACES), parameters.mark(" " * (len(_SPACES) + 1))
    likes = parameters.mark([f"% {_escaped(pattern)}%" if pattern else "% _%" for pattern in patterns], "text[]")
    part = f"' ' || regexp_replace(btrim(translate(part, {spaces}, {plain})), ' +', ' ', 'g')"
    return f"EXISTS (SELECT 1 FROM {_split(column)} AS part WHERE {part} LIKE ALL ({likes}))"  # noqa: S608


def _split(column: str) -> str:
    return f"unnest(CASE WHEN {column} = '' THEN ARRAY[''] ELSE string_to_array({column}, '=') END)"


def _starts(column: str, literal: str, parameters: Parameters) -> str:
    literal = literal[:KEPT].replace("\0", "\ufffd")
    return f"({column} >= {parameters.mark(literal)} AND {column} < {parameters.mark(literal + _BEYOND)})"


def _literal_start(pattern: str) -> str:
    """Return what stands before the first wild card."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def _like(pattern: str) -> str:
    return _escaped(re.sub(r"\*+", "*", pattern)).replace("*", "%").replace("?", "_")


def _escaped(text: str) -> str:
    return re.sub(r"[\\%_]", r"\\\g<0>", text).replace("\0", "\ufffd")
