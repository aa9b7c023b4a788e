"""A second form of an object, in another transfer syntax: how its key comes from the original's, when it is whole.

All that is made of `…/{SOP}-{receipt id}.dcm` lies in the folder `…/{SOP}-{receipt id}/`. Each attempt at a form writes
an object of its own, `{transfer syntax}-{attempt}.dcm`. When that is durable, a seal follows: an empty object whose
name tells the form's size and digest. A form without a seal was cut short by a crash, or is still being written. The
seal is there or not, but never half, and nothing is ever written over: so it is right on files and on object stores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_FORM = re.compile(
    r"(?P<original>.+-[0-9a-v]{20})/(?P<form>(?P<syntax>[0-9.]+)-[0-9a-v]{20})"
    r"(?:\.dcm|-(?P<offset>[0-9]+)-(?P<size>[0-9]+)-(?P<sha256>[0-9a-f]{64}))"
)


class Representation(msgspec.Struct, frozen=True):
    """A form: where it is, in which transfer syntax, and its data set's place and digest, as of the original."""

    key: str
    transfer_syntax_uid: str
    data_set_offset: int
    size: int
    sha256: str

    @property
    def seal(self) -> str:
        """The key that says, by being there, that the form is whole."""
        return f"{self.key.removesuffix('.dcm')}-{self.data_set_offset}-{self.size}-{self.sha256}"


def folder_of(original: str) -> str:
    """Return what the keys of all forms of the object under `original` begin with."""
    return original.removesuffix(".dcm") + "/"


def form_key(original: str, transfer_syntax_uid: str, attempt: str) -> str:
    """Return the key of an attempt, named by a receipt id, to have the object in that transfer syntax."""
    return f"{folder_of(original)}{transfer_syntax_uid}-{attempt}.dcm"


def original_of(key: str) -> str:
    """Return the key of the object that a form or a seal under `key` is made of; empty where `key` is neither's."""
    found = _FORM.fullmatch(key)
    return f"{found['original']}.dcm" if found else ""


def sealed(held: Mapping[str, int]) -> tuple[Representation, ...]:
    """Return the forms among `held`, keys and the sizes of what they hold, that are whole; the first made first."""
    forms = []
    for key in sorted(held):
        found = _FORM.fullmatch(key)
        if found is None or found["size"] is None:
            continue
        form = f"{found['original']}/{found['form']}.dcm"
        if held.get(form) == int(found["size"]):
            forms.append(
                Representation(form, found["syntax"], int(found["offset"]), int(found["size"]), found["sha256"])
            )
    return tuple(forms)
