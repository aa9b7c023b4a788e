"""What C-FIND, C-MOVE and C-GET have in common: information models, levels, and the unique keys of each (PS3.4 C.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from dicomnode.config import StoreScpTable
from dicomnode.dicom.identifier import read_identifier
from dicomnode.dicom.matching import text_of
from dicomnode.dicom.reply import LEVEL_NAMES, QUERY_RETRIEVE_LEVEL
from dicomnode.dimse.responder import Request
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Level

UNIQUE_KEYS: Final = {
    Level.PATIENT: ("00100020", "PatientID"),
    Level.STUDY: ("0020000D", "StudyInstanceUID"),
    Level.SERIES: ("0020000E", "SeriesInstanceUID"),
    Level.INSTANCE: ("00080018", "SOPInstanceUID"),
}
"""The tag and keyword of the unique key of each level."""

MOST_ATTRIBUTES: Final = 1000
"""What one identifier may ask back."""

T = TypeVar("T")
_READ_HERE_BYTES = 32 * 1024  # a longer identifier is read in a thread
_LEVELS = {name: level for level, name in LEVEL_NAMES.items()}


class Model(msgspec.Struct, frozen=True):
    """An information model: its first and its last level."""

    first: Level
    last: Level


_PATIENT_ROOT = Model(Level.PATIENT, Level.INSTANCE)
_STUDY_ROOT = Model(Level.STUDY, Level.INSTANCE)
_PATIENT_STUDY_ONLY = Model(Level.PATIENT, Level.STUDY)


def _sop_classes(last: int) -> dict[str, Model]:
    roots = {1: _PATIENT_ROOT, 2: _STUDY_ROOT, 3: _PATIENT_STUDY_ONLY}
    return {f"1.2.840.10008.5.1.4.1.2.{root}.{last}": model for root, model in roots.items()}


FIND: Final = _sop_classes(1)
MOVE: Final = _sop_classes(2)
GET: Final = _sop_classes(3)
"""The SOP classes of each service, with the model of each."""


async def understood(request: Request, read: Callable[[Request], T]) -> T:
    """Return `read(request)`, called in a thread where the identifier is long. Raises: BadRequest."""
    if len(request.data) > _READ_HERE_BYTES:
        return await asyncio.to_thread(read, request)
    return read(request)


def identifier_of(request: Request) -> dict[str, dict[str, Any]]:
    """Return the identifier of a request. Raises: BadRequest."""
    identifier = read_identifier(request.data, request.transfer_syntax_uid)
    if len(identifier) > MOST_ATTRIBUTES:
        raise BadRequest(f"more than {MOST_ATTRIBUTES} attributes")
    return identifier


def texts_at(identifier: Mapping[str, Mapping[str, Any]], tag: str) -> tuple[str, ...]:
    """Return the values of `tag` as texts without padding; none where there is none."""
    return tuple(text_of(value).strip() for value in identifier.get(tag, {}).get("Value") or ())


def read_level(identifier: Mapping[str, Mapping[str, Any]], model: Model) -> Level:
    """Return the Query/Retrieve Level. Raises: BadRequest, it is missing, unknown, or none of the model's."""
    values = texts_at(identifier, QUERY_RETRIEVE_LEVEL)
    level = _LEVELS.get(values[0].upper()) if len(values) == 1 else None
    if level is None:
        raise BadRequest("QueryRetrieveLevel is missing or unknown")
    if not model.first <= level <= model.last:
        raise BadRequest("QueryRetrieveLevel is none of this information model")
    return level


def check_unique_keys(identifier: Mapping[str, Mapping[str, Any]], model: Model, level: Level) -> None:
    """Raise BadRequest unless each level above has its unique key, with one value (PS3.4 C.4.1.2.1)."""
    for above in range(model.first, level):
        tag, keyword = UNIQUE_KEYS[Level(above)]
        values = texts_at(identifier, tag)
        if len(values) != 1 or not values[0] or set(values[0]) & set("*?"):
            raise BadRequest(f"{keyword} with one value is needed at this level")


def own_title(table: StoreScpTable, called_aet: str) -> str:
    """Return by which AE title of ours to go on: the one that was called, if it is one."""
    return called_aet if called_aet in table.ae_titles else table.ae_title


def agreed(extended: bytes, place: int) -> bool:
    """Tell whether byte `place` of the agreed extended negotiation says yes."""
    return len(extended) > place and extended[place] == 1
