"""What C-GET asks an association for: to be sent objects of any kind, however they are kept (PS3.4 C.4.3).

An association has 128 presentation contexts, and one for each kind of object and each way to encode it is more. Where
the kinds are known, each gets a context for each transfer syntax, so that nothing has to be transcoded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pydicom._uid_dict import UID_dictionary

from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dicom.uid import STORAGE_SOP_CLASSES
from dicomnode.dimse.items import CONTEXTS_MOST, Proposal, Role
from dicomnode.dimse.responder import Operations, StoreRequest

_PREFIX = "1.2.840.10008.1.2."
_UNCOMPRESSED: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
# As much as is seen in the field, the most frequent first.
_COMPRESSED: Final = tuple(
    _PREFIX + last for last in ("4.70", "4.90", "4.50", "5", "4.91", "4.80", "4.51", "4.81", "4.57", "4.201", "4.203")
)
# For 127 kinds no more than these: dcmtk hangs up when a request is longer than 128 KiB.
_ALL: Final = (*_UNCOMPRESSED, *_COMPRESSED, *(_PREFIX + last for last in ("4.100", "4.102", "4.103")))
_TO_BE_SENT: Final = Role(scu=False, scp=True)

Keep = Callable[[StoreRequest], Awaitable[int]]
"""Keeps an object that is sent; returns the status of the C-STORE response (PS3.4 B.2.3)."""


def get_proposals(get_sop_class: str, sop_classes: Sequence[str] = ()) -> tuple[Proposal, ...]:
    """Return the contexts to ask for: C-GET, and to be sent objects of `sop_classes`, () for any that is current."""
    kinds = list(dict.fromkeys(sop_classes)) or _current()
    pairs: list[tuple[str, tuple[str, ...]]] = []
    room = CONTEXTS_MOST - 1
    own = 1 + len(_COMPRESSED)
    for kind in kinds[:room]:
        if len(kinds) * own <= room:
            pairs += [(kind, _UNCOMPRESSED), *((kind, (syntax,)) for syntax in _COMPRESSED)]
        else:
            pairs.append((kind, _ALL))
    asked = [Proposal(1, get_sop_class, _UNCOMPRESSED)]
    asked += (Proposal(2 * i + 3, kind, syntaxes, _TO_BE_SENT) for i, (kind, syntaxes) in enumerate(pairs))
    return tuple(asked)


def _current() -> list[str]:
    """Return the storage SOP classes that are not retired, those of images and reports first, as their numbers go."""
    retired = {uid for uid, entry in UID_dictionary.items() if entry[3]}
    current = STORAGE_SOP_CLASSES - retired
    return sorted(current, key=lambda uid: (uid.startswith("1.2.840.10008.5.1.4.34."), len(uid.split(".")), uid))


class Receiving:
    """Takes the objects that come in answer to C-GET."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    @property
    def operations(self) -> Operations:
        """Nothing beside C-STORE."""
        return {}

    async def store(self, request: StoreRequest) -> int:
        """Keep an object."""
        return await self._keep(request)
