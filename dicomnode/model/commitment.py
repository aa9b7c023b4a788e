"""Storage commitment: what a peer asks this node to answer for, and the answer (PS3.4 J). Values only."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Reason(IntEnum):
    """Why an object is not committed to: Failure Reason (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    RESOURCE_LIMITATION = 0x0213


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """An object that is asked about."""

    sop_class_uid: str
    sop_instance_uid: str


class Outcome(msgspec.Struct, frozen=True):
    """What this node commits itself to keep, and what not, in the order that was asked."""

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, Reason], ...] = ()


class Transaction(msgspec.Struct, frozen=True):
    """A request that was accepted, and whose report is owed. `received` is in seconds since 1970; `name` is our own."""

    name: str
    uid: str
    tenant: str
    calling_aet: str
    called_aet: str
    received: float
    references: tuple[Reference, ...]

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two requests the same: who asks for whom, and the Transaction UID."""
        return self.tenant, self.calling_aet, self.uid
