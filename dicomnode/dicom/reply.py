"""The identifiers of C-FIND responses, made of what the index found (PS3.4 C.4.1.1.3.2).

Stored attributes are JSON text; elements that were written before are not written again, as within one answer most
values repeat. A row that the question's character set cannot hold is told in UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec

from dicomnode.dicom import charset as charsets
from dicomnode.dicom.answer import MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY
from dicomnode.dicom.identifier import SPECIFIC_CHARACTER_SET, UTF_8, ElementWriter
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_TAG, Level
from dicomnode.model.query import Found

QUERY_RETRIEVE_LEVEL: Final = "00080052"
RETRIEVE_AE_TITLE: Final = "00080054"
INSTANCE_AVAILABILITY: Final = "00080056"

LEVEL_NAMES: Final = {Level.PATIENT: "PATIENT", Level.STUDY: "STUDY", Level.SERIES: "SERIES", Level.INSTANCE: "IMAGE"}

_UNIQUE = {Level.STUDY: "0020000D", Level.SERIES: "0020000E", Level.INSTANCE: "00080018"}
_MOST_WRITTEN = 4096
_decode = msgspec.json.Decoder(dict[str, Any]).decode

# What is counted or known of an entity beside its attributes, and at which level.
_COUNTED: dict[tuple[str, Level], Callable[[Found], dict[str, Any]]] = {
    ("00201200", Level.PATIENT): lambda found: _integer(found.studies),
    ("00201202", Level.PATIENT): lambda found: _integer(found.series_count),
    ("00201204", Level.PATIENT): lambda found: _integer(found.instance_count),
    ("00201206", Level.STUDY): lambda found: _integer(found.series_count),
    ("00201208", Level.STUDY): lambda found: _integer(found.instance_count),
    ("00201209", Level.SERIES): lambda found: _integer(found.instance_count),
    (MODALITIES_IN_STUDY, Level.STUDY): lambda found: {"vr": "CS", "Value": list(found.modalities)},
    (SOP_CLASSES_IN_STUDY, Level.STUDY): lambda found: {"vr": "UI", "Value": list(found.sop_classes)},
    ("00083002", Level.INSTANCE): lambda found: {"vr": "UI", "Value": [found.transfer_syntax_uid]},
}
COUNTED: Final = frozenset(_COUNTED)
"""The attributes that are counted or known of an entity of a level: tag and level."""


def _integer(number: int) -> dict[str, Any]:
    return {"vr": "IS", "Value": [number]}


class Wanted(msgspec.Struct, frozen=True):
    """What every response to one question is to hold: tags and their VRs, the level, and who retrieves."""

    level: Level
    tags: Mapping[str, str]
    retrieve_aet: str
    transfer_syntax_uid: str
    charset: str = ""

    def constants(self) -> dict[str, dict[str, Any]]:
        """Return the elements that are the same in each response."""
        told: dict[str, dict[str, Any]] = {
            QUERY_RETRIEVE_LEVEL: {"vr": "CS", "Value": [LEVEL_NAMES[self.level]]},
            RETRIEVE_AE_TITLE: {"vr": "AE", "Value": [self.retrieve_aet]},
        }
        if self.level is not Level.PATIENT:
            told[INSTANCE_AVAILABILITY] = {"vr": "CS", "Value": ["ONLINE"]}
        return told

    def asked(self) -> dict[str, str]:
        """Return the VR of each tag that may differ from row to row, the unique keys of the level and above too."""
        unique = {tag: "UI" for level, tag in _UNIQUE.items() if level <= self.level}
        return unique | {tag: vr for tag, vr in self.tags.items() if tag != SPECIFIC_CHARACTER_SET}


class ReplyWriter:
    """Writes the responses to one question, each row whole in one character set."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._first = _Rows(
            wanted, "" if charsets.of(wanted.charset.encode("latin-1", "replace")).misspelt else wanted.charset
        )
        self._utf_8: _Rows | None = None

    def write(self, found: Found) -> bytes:
        """Return the identifier that tells of `found`."""
        try:
            return self._first.write(found)
        except UnicodeEncodeError:
            if self._utf_8 is None:
                self._utf_8 = _Rows(self._wanted, UTF_8)
            return self._utf_8.write(found)


class _Rows:
    """Rows in one character set: a list of elements by ascending tag, of which each level fills in its own."""

    def __init__(self, wanted: Wanted, charset: str) -> None:
        writer = ElementWriter(wanted.transfer_syntax_uid, charset)
        constants, asked = wanted.constants(), wanted.asked()
        if charset:
            constants[SPECIFIC_CHARACTER_SET] = {"vr": "CS", "Value": charset.split("\\")}
        tags = sorted({*constants, *asked})
        self._empty = [
            writer.element(tag, constants[tag]) if tag in constants else writer.empty(tag, asked[tag]) for tag in tags
        ]
        places = {tag: place for place, tag in enumerate(tags) if tag not in constants}
        self._levels = {level: _Part(writer, level, places) for level in Level if level <= wanted.level}
        self._last = self._levels.pop(wanted.level)
        self._counted = [
            (places[tag], tag, tell)
            for (tag, level), tell in _COUNTED.items()
            if level is wanted.level and tag in places
        ]
        self._writer = writer
        self._above: tuple[tuple[str, ...], list[bytes]] = (), []
        self._level = wanted.level

    def write(self, found: Found) -> bytes:
        fragments = (found.patient, found.study, found.series, found.instance)
        row = self._upper(fragments[: self._level]).copy()
        self._last.fill(fragments[self._level], row)
        for place, tag, tell in self._counted:
            row[place] = self._writer.element(tag, tell(found))
        return b"".join(row)

    def _upper(self, fragments: tuple[str, ...]) -> list[bytes]:
        """Return a row with what the levels above say, which repeats from one row to the next."""
        if self._above[0] != fragments or not self._above[1]:
            row = self._empty.copy()
            for part, fragment in zip(self._levels.values(), fragments, strict=True):
                part.fill(fragment, row)
            self._above = fragments, row
        return self._above[1]


class _Part:
    """The elements that one level contributes to a row."""

    def __init__(self, writer: ElementWriter, level: Level, places: Mapping[str, int]) -> None:
        tags = [tag for tag in places if tag in BY_TAG and BY_TAG[tag].level == level]
        self._writer = writer
        self._tags = [(tag, places[tag], dict[bytes, bytes]()) for tag in tags]
        names = [f"t{tag}" for tag in tags]
        raw = [(name, msgspec.Raw, msgspec.Raw(b"")) for name in names]
        shape = msgspec.defstruct("Part", raw, rename={name: name[1:] for name in names})
        self._decode: Callable[[str], Any] = msgspec.json.Decoder(shape).decode
        # Of one name attrgetter returns no tuple.
        self._values: Callable[[Any], tuple[msgspec.Raw, ...]] = (
            attrgetter(*names) if len(names) > 1 else lambda one: tuple(getattr(one, name) for name in names)
        )

    def fill(self, fragment: str, row: list[bytes]) -> None:
        """Put the elements of `fragment` in their places of `row`; leave those that it lacks."""
        if not self._tags:
            return
        for (tag, place, written), raw in zip(self._tags, self._values(self._decode(fragment)), strict=True):
            text = bytes(raw)
            if text:
                element = written.get(text)
                if element is None:
                    element = self._write(tag, text, written)
                row[place] = element or row[place]

    def _write(self, tag: str, text: bytes, written: dict[bytes, bytes]) -> bytes:
        try:
            element = self._writer.element(tag, _decode(text))
        except BadRequest:  # a value that was odd when it came
            element = b""
        if len(written) >= _MOST_WRITTEN:
            written.clear()
        written[text] = element
        return element
