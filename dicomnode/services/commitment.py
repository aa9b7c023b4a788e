"""Storage commitment: what of a list of objects this node keeps safely, and what not and why (PS3.4 J)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from dicomnode.errors import BadRequest
from dicomnode.model.commitment import Outcome, Reason, Reference
from dicomnode.model.messages import INDEXING_GROUP, STORAGE_QUEUE
from dicomnode.model.query import Location
from dicomnode.ports.broker import Barrier
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage

MOST_REFERENCES: Final = 100_000
_AT_ONCE = 64
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 5.0


class Commitment:
    """Answer for objects. Where the index is made elsewhere there is no barrier: then `patience_s` is waited for it."""

    def __init__(
        self, storage: Storage, database: Database, barrier: Barrier | None, *, patience_s: float = 30.0
    ) -> None:
        self._storage = storage
        self._database = database
        self._barrier = barrier
        self._patience_s = patience_s

    async def check(self, tenant: str, references: Sequence[Reference]) -> Outcome:
        """Return which of `references` are indexed and kept whole, everything acknowledged before being known.

        Bytes are not read; that they are as many as were stored is looked at.

        Raises: BadRequest, more than 100,000 references; Unavailable, it cannot be told now.
        """
        if len(references) > MOST_REFERENCES:
            raise BadRequest(f"more than {MOST_REFERENCES} objects")
        if self._barrier is not None:
            await self._barrier.settled(STORAGE_QUEUE, INDEXING_GROUP)
        reasons = await self._judge_all(tenant, dict.fromkeys(references))
        if self._barrier is None:
            await self._wait_for(tenant, reasons)
        failed = tuple((one, reason) for one in references if (reason := reasons[one]) is not None)
        return Outcome(tuple(one for one in references if reasons[one] is None), failed)

    async def _judge_all(self, tenant: str, references: Iterable[Reference]) -> dict[Reference, Reason | None]:
        wanted, reasons = list(references), dict[Reference, Reason | None]()
        for start in range(0, len(wanted), _AT_ONCE):
            batch = wanted[start : start + _AT_ONCE]
            found = await asyncio.gather(*(self._judge(tenant, one) for one in batch))
            reasons.update(zip(batch, found, strict=True))
        return reasons

    async def _wait_for(self, tenant: str, reasons: dict[Reference, Reason | None]) -> None:
        """Look again for what is not there, while it may still be on its way to the index."""
        until, wait_s = time.monotonic() + self._patience_s, _FIRST_WAIT_S
        while time.monotonic() < until:
            missing = [one for one, reason in reasons.items() if reason is Reason.NO_SUCH_OBJECT_INSTANCE]
            if not missing:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            reasons.update(await self._judge_all(tenant, missing))

    async def _judge(self, tenant: str, reference: Reference) -> Reason | None:
        if not reference.sop_instance_uid:
            return Reason.NO_SUCH_OBJECT_INSTANCE
        found = await self._database.locate(tenant, "", "", reference.sop_instance_uid)
        if not found:
            return Reason.NO_SUCH_OBJECT_INSTANCE
        location = next((one for one in found if one.sop_class_uid == reference.sop_class_uid), None)
        if location is None:
            return Reason.CLASS_INSTANCE_CONFLICT
        return await self._kept(location)

    async def _kept(self, location: Location) -> Reason | None:
        size = await self._storage.size(location.key)
        if size is None:
            return Reason.NO_SUCH_OBJECT_INSTANCE
        return None if size == location.size else Reason.PROCESSING_FAILURE
