"""Which service a SOP class belongs to, in the words of `[peers] services` (PS3.4 B.5, C.6, F, J, K)."""

from __future__ import annotations

from typing import Final

from dicomnode.dicom.uid import is_storage_sop_class

ECHO: Final = "echo"
STORE: Final = "store"
FIND: Final = "find"
MOVE: Final = "move"
GET: Final = "get"
COMMIT: Final = "commit"
WORKLIST: Final = "worklist"
MPPS: Final = "mpps"
EVERY: Final = frozenset({ECHO, STORE, FIND, MOVE, GET, COMMIT, WORKLIST, MPPS})

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
MODALITY_WORKLIST: Final = "1.2.840.10008.5.1.4.31"

_QUERY_RETRIEVE = {
    f"1.2.840.10008.5.1.4.1.2.{root}.{last}": service
    for root in (1, 2, 3)
    for last, service in ((1, FIND), (2, MOVE), (3, GET))
}
_OF: Final = {
    VERIFICATION: ECHO,
    **_QUERY_RETRIEVE,
    STORAGE_COMMITMENT: COMMIT,
    MODALITY_WORKLIST: WORKLIST,
    "1.2.840.10008.3.1.2.3.3": MPPS,
    "1.2.840.10008.3.1.2.3.4": MPPS,
    "1.2.840.10008.3.1.2.3.5": MPPS,
}


def service_of(sop_class_uid: str) -> str:
    """Return the service of a SOP class; what is not known here is storage, as nothing else could be done with it."""
    if is_storage_sop_class(sop_class_uid):
        return STORE
    return _OF.get(sop_class_uid, STORE)
