"""Procedure steps: what is scheduled (a worklist entry), and what was performed of it. Values only.

Attributes are DICOM JSON objects (PS3.18 F) with tags in capitals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

STUDY_INSTANCE_UID: Final = "0020000D"
STEP_SEQUENCE: Final = "00400100"
STEP_ID: Final = "00400009"
STEP_STATUS: Final = "00400020"
STEP_START_DATE: Final = "00400002"
STEP_START_TIME: Final = "00400003"
SCHEDULED_STEP_ATTRIBUTES: Final = "00400270"
PERFORMED_STATUS: Final = "00400252"

DONE: Final = frozenset({"COMPLETED", "DISCONTINUED", "CANCELED", "CANCELLED"})
"""Scheduled Procedure Step Status of what no modality need ask for any more."""


class Performed(StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"

    @property
    def of_scheduled(self) -> str:
        """Return the status that the scheduled step has then."""
        return "STARTED" if self is Performed.IN_PROGRESS else self.value


class ScheduledStep(msgspec.Struct, frozen=True):
    """One entry of the worklist: its name, the file it is kept in, what it says.

    `step` is the one item of its Scheduled Procedure Step Sequence; `warnings` are sentences that quote no value.
    """

    name: str
    file: str
    attributes: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def step(self) -> Mapping[str, Any]:
        """The item of the Scheduled Procedure Step Sequence."""
        item: Mapping[str, Any] = self.attributes[STEP_SEQUENCE]["Value"][0]
        return item

    @property
    def is_done(self) -> bool:
        """Whether the step was performed or given up."""
        return first_text(self.step, STEP_STATUS) in DONE

    @property
    def identity(self) -> tuple[str, str]:
        """What performed steps refer to: Study Instance UID and Scheduled Procedure Step ID, "" where absent."""
        return first_text(self.attributes, STUDY_INSTANCE_UID), first_text(self.step, STEP_ID)

    @property
    def order(self) -> tuple[str, str, str]:
        """What entries are sorted by: when the step begins, then the name."""
        return first_text(self.step, STEP_START_DATE), first_text(self.step, STEP_START_TIME), self.name


def scheduled_identities(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the `ScheduledStep.identity` of each scheduled step that a performed one refers to."""
    for item in items_of(attributes, SCHEDULED_STEP_ATTRIBUTES):
        study_uid, step_id = first_text(item, STUDY_INSTANCE_UID), first_text(item, STEP_ID)
        if study_uid and step_id:
            yield study_uid, step_id


def items_of(attributes: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    """Return the items of a sequence, none where it is absent."""
    return [item for item in _values(attributes, tag) if isinstance(item, Mapping)]


def first_text(attributes: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute if that is a text, "" otherwise."""
    values = _values(attributes, tag)
    return values[0].strip() if values and isinstance(values[0], str) else ""


def _values(attributes: Mapping[str, Any], tag: str) -> list[Any]:
    element = attributes.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values if isinstance(values, list) else []
