"""A match becomes a condition of SQL that agrees with `Match.accepts`. Values are parameters, never part of SQL."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from dicomnode.model.query import Match, NamePattern, OneOf, Range, Wildcard

Condition = tuple[str, list[object]]

ALL: Condition = ("1", [])
NONE: Condition = ("0", [])
_FEW = 50
_TOO_LONG = 10_000  # SQLite refuses patterns of 50,000 bytes; no attribute is that long
_BEYOND = "\U0010ffff"
_json = msgspec.json.Encoder().encode
_read_name = msgspec.json.Decoder(NamePattern).decode


def condition(column: str, match: Match) -> Condition:
    """Return the condition that `column` fits `match`."""
    match match:
        case OneOf(values):
            return _one_of(column, values)
        case Wildcard(pattern):
            return _wildcard(column, pattern)
        case Range(low, high):
            return _range(column, low, high)
        case NamePattern():
            return _name(column, match)


def either(conditions: list[Condition]) -> Condition:
    """Return that one of `conditions` holds."""
    if not conditions:
        return NONE
    return f"({' OR '.join(text for text, _ in conditions)})", [value for _, values in conditions for value in values]


def both(conditions: list[Condition]) -> Condition:
    """Return that all of `conditions` hold."""
    if not conditions:
        return ALL
    return f"({' AND '.join(text for text, _ in conditions)})", [value for _, values in conditions for value in values]


def _one_of(column: str, values: tuple[str, ...]) -> Condition:
    if not values:
        return NONE
    if len(values) == 1:
        return f"{column} = ?", [values[0]]
    if len(values) <= _FEW:
        return f"{column} IN ({','.join('?' * len(values))})", list(values)
    return f"{column} IN (SELECT value FROM json_each(?))", [_json(values).decode()]  # noqa: S608


def _wildcard(column: str, pattern: str) -> Condition:
    pattern = re.sub(r"\*+", "*", pattern)
    if pattern == "*":
        return ALL
    if len(pattern) > _TOO_LONG:
        return NONE
    literal = literal_start(pattern)
    if literal == pattern:
        return f"{column} = ?", [pattern]
    fits: Condition = (f"{column} GLOB ?", [_glob(pattern)])
    return both([_starts(column, literal), fits]) if literal else fits


def _range(column: str, low: str, high: str) -> Condition:
    parts: list[Condition] = [(f"{column} >= ?", [low])] if low else [(f"{column} > ?", [""])]
    if high:
        parts.append((f"{column} <= ?", [high]))
    return both(parts)


def _name(column: str, match: NamePattern) -> Condition:
    """Sieve with GLOB, which knows no component groups, and let `name_fits` decide about what is left."""
    if not match.words and all(set(pattern) == {"*"} for pattern in match.patterns) and match.patterns:
        return ALL
    sieve = _words_sieve(column, match.patterns) if match.words else _groups_sieve(column, match.patterns)
    return both([sieve, (f"name_fits(?, {column})", [_json(match).decode()])])


def _groups_sieve(column: str, patterns: tuple[str, ...]) -> Condition:
    patterns = tuple(pattern for pattern in patterns if len(pattern) <= _TOO_LONG)
    whole = either([(f"('=' || {column} || '=') GLOB ?", [f"*={_glob(pattern)}=*"]) for pattern in patterns])
    starts = [literal_start(pattern) for pattern in patterns]
    if not all(starts):
        return whole
    # A later group may be what fits: the index of the column is of use only for names that have one group.
    return both([either([*(_starts(column, start) for start in starts), (f"instr({column}, '=') > 0", [])]), whole])


def _words_sieve(column: str, patterns: tuple[str, ...]) -> Condition:
    return both([(f"{column} GLOB ?", [f"*{_literal(text)}*"]) for text in patterns if len(text) <= _TOO_LONG])


def _starts(column: str, literal: str) -> Condition:
    return f"({column} >= ? AND {column} < ?)", [literal, literal + _BEYOND]


def literal_start(pattern: str) -> str:
    """Return what stands before the first wild card."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def _glob(pattern: str) -> str:
    return re.sub(r"\*+", "*", pattern).replace("[", "[[]")


def _literal(text: str) -> str:
    return re.sub(r"[*?\[]", r"[\g<0>]", text)


@lru_cache(maxsize=64)
def _pattern(text: str) -> NamePattern:
    return _read_name(text)


def name_fits(text: str, value: str) -> bool:
    """Tell whether the folded name `value` fits the NamePattern that is `text`; for use in SQL."""
    return _pattern(text).accepts(value)
