"""Questions to the index, and its answers.

A `Match` compares normalised text (see `attributes.Form`) and is the one meaning of matching that every database
must agree with: `accepts` is the reference, SQL an optimisation of it (PS3.4 C.2.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from dicomnode.model.attributes import Level


class OneOf(msgspec.Struct, frozen=True, tag=True):
    """Single value and list of UID matching: the value is one of `values` (PS3.4 C.2.2.2.1, C.2.2.2.2)."""

    values: tuple[str, ...]

    def accepts(self, value: str) -> bool:
        """Tell whether `value` is one of those asked for."""
        return value in self.values


class Wildcard(msgspec.Struct, frozen=True, tag=True):
    """Wild card matching: `*` is any run of characters, `?` any one; all else is literal (PS3.4 C.2.2.2.4)."""

    pattern: str

    def accepts(self, value: str) -> bool:
        """Tell whether the whole of `value` fits the pattern."""
        return _compiled(self.pattern).fullmatch(value) is not None


class Range(msgspec.Struct, frozen=True, tag=True):
    """Range matching: `low` <= value <= `high` as text; an empty end is open (PS3.4 C.2.2.2.5).

    An empty value is in no range.
    """

    low: str = ""
    high: str = ""

    def accepts(self, value: str) -> bool:
        """Tell whether `value` lies within the range."""
        return bool(value) and self.low <= value and (not self.high or value <= self.high)


class NamePattern(msgspec.Struct, frozen=True, tag=True):
    """Person name matching on folded names: any component group (`=`) of the value may fit one of `patterns`.

    With `words`, each pattern is sought at the start of any word of the name instead (fuzzymatching).
    """

    patterns: tuple[str, ...]
    words: bool = False

    def accepts(self, value: str) -> bool:
        """Tell whether any component group of the folded name `value` fits."""
        return any(self._fits(group) for group in value.split("="))

    def _fits(self, group: str) -> bool:
        if self.words:
            words = group.replace("^", " ").split()
            return all(any(word.startswith(asked) for word in words) for asked in self.patterns)
        return any(_compiled(pattern).fullmatch(group) is not None for pattern in self.patterns)


Match = OneOf | Wildcard | Range | NamePattern


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Where a `*` first finds what follows it is as good as anywhere later. The atomic groups keep the regex from trying
    # the other places too, which for `*a*a*a…` would take for ever.
    first, *later = [re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", pattern)]
    if later:
        *middle, last = later
        first += "".join(f"(?>.*?{part})" for part in middle) + f".*{last}"
    return re.compile(first, re.DOTALL)


class Query(msgspec.Struct, frozen=True):
    """What to find: entities of `level` in `tenant` whose searched columns (by keyword) fit every match.

    Keys may name columns of the level or of any level above it, and `ModalitiesInStudy` or `SOPClassesInStudy`,
    which fit a study that has any series or instance that fits. `after` continues behind the row with that cursor;
    then `offset` rows are passed over.
    """

    tenant: str
    level: Level
    matches: Mapping[str, Match] = {}
    limit: int = 100
    after: str = ""
    offset: int = 0


class Found(msgspec.Struct, frozen=True):
    """One entity: its attributes by level as DICOM JSON text, and what the index counted.

    Levels below the query's are "{}". `cursor` is where a further page goes on; it sorts as the rows are ordered:
    newest study first, then series and instance numbers, then UIDs.
    """

    cursor: str
    patient: str
    study: str = "{}"
    series: str = "{}"
    instance: str = "{}"
    modalities: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    studies: int = 0
    series_count: int = 0
    instance_count: int = 0
    transfer_syntax_uid: str = ""


class Location(msgspec.Struct, frozen=True):
    """Where the current object of an instance is kept, and what reading it needs. Sizes and offsets in bytes."""

    key: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    data_set_offset: int
    sha256: str
    number_of_frames: int
