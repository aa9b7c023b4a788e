"""Section 4.2.1.3: the associations that the node asks for (PS3.2 A.4.2.1.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dicomnode.cli.conformance.facts import Facts, name_of
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table
from dicomnode.cli.main import COMMANDS
from dicomnode.dimse import service, status
from dicomnode.dimse.peer import SOP_CLASSES

_OBJECTS = "storage, those of the objects"

SCU: Final = frozenset(uid for name in COMMANDS for uid in SOP_CLASSES.get(name, ()))
"""The SOP classes, storage aside, that the node is an SCU of."""


def requests(facts: Facts) -> str:
    """Return the section."""
    return joined(
        (
            heading("4.2.1.3", "Associations that the node asks for"),
            table(("activity", "occasion", "SOP classes"), [*_activities(), *_commands()]),
            prose(
                f"""
                - The calling AE title is {code(facts.config.storescp.ae_title)}, or what `--aet` says. Each activity
                  has associations of its own.
                - For storage each SOP class is proposed in the transfer syntax of the objects, and in uncompressed ones
                  beside it as something to fall back upon.
                - Statuses by which an object counts as stored: {_spans(status.is_stored)}. Statuses after which it is
                  tried again: {_spans(status.is_transient)}. So it is after an association that is lost. Any other
                  status is a failure of that object.
                """
            ),
        )
    )


def _activities() -> Iterator[Sequence[str]]:
    yield "C-MOVE", "a peer asks for objects to be sent to a destination", _OBJECTS
    yield "storage commitment", "a report is owed to a peer that has parted", name_of(service.STORAGE_COMMITMENT)


def _commands() -> Iterator[Sequence[str]]:
    for name, (_, does) in COMMANDS.items():
        if name in service.EVERY:
            yield code(f"dicomnode {name}"), does, ", ".join(map(name_of, SOP_CLASSES.get(name, ()))) or _OBJECTS


def _spans(fits: Callable[[int], bool]) -> str:
    """Return the statuses that fit, neighbours as one span."""
    codes = dict.fromkeys(number for number in range(0x10000) if fits(number))
    firsts = [number for number in codes if number - 1 not in codes]
    lasts = [number for number in codes if number + 1 not in codes]
    spans = zip(firsts, lasts, strict=True)
    return ", ".join(f"{low:04X}" if low == high else f"{low:04X} to {high:04X}" for low, high in spans)
