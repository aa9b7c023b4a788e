"""Make received objects findable, in batches, each step of which may run twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from dicomnode import log, metrics
from dicomnode.dicom.matching import columns
from dicomnode.model.entry import Entry, Fate, Policy
from dicomnode.model.messages import DicomObjectMeta
from dicomnode.ports.audit import sha256_of
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage

_LOG = log.get("index")


class Received(msgspec.Struct, frozen=True):
    """A message to be indexed; `suspect`: a crash came between, so the object may not be whole."""

    meta: DicomObjectMeta
    suspect: bool = False


class Index:
    """Make received objects findable."""

    def __init__(self, database: Database, storage: Storage, policy: Policy) -> None:
        self._database = database
        self._storage = storage
        self._policy = policy

    async def take_in(self, received: Sequence[Received]) -> Sequence[Fate | None]:
        """Index `received` in one transaction; return each one's fate, None for an object that never became whole.

        Files whose data set equals one already kept are deleted, after the transaction is committed. Idempotent.

        Raises: Unavailable, Full: nothing was indexed.
        """
        whole = [not item.suspect or await self._is_whole(item.meta) for item in received]
        entries = [_entry(item.meta) for item, kept in zip(received, whole, strict=True) if kept]
        fates = await self._database.index(entries, self._policy) if entries else ()
        # Twice in one batch under one key: the first made it known, the second must not delete it.
        kept_keys = {entry.key for entry, fate in zip(entries, fates, strict=True) if fate is not Fate.DUPLICATE}
        repeats = {entry.key for entry, fate in zip(entries, fates, strict=True) if fate is Fate.DUPLICATE}
        await self._storage.delete(tuple(repeats - kept_keys))
        for fate, count in Counter(fates).items():
            metrics.INDEXED.labels(fate.value).inc(count)
        left = iter(fates)
        return [next(left) if kept else None for kept in whole]

    async def _is_whole(self, meta: DicomObjectMeta) -> bool:
        """Tell whether the object is kept as the message says; what is not was never acknowledged to its sender."""
        whole = (
            await self._storage.size(meta.file_path) == meta.file_size
            and await sha256_of(self._storage, meta.file_path, meta.data_set_offset) == meta.sha256
        )
        if not whole:
            _LOG.warning(
                "object.dropped", key=meta.file_path, reason="a crash left it incomplete; it was never acknowledged"
            )
            metrics.INDEXED.labels("incomplete").inc()
        return whole


def _entry(meta: DicomObjectMeta) -> Entry:
    fragments = meta.attributes.fragments()
    return Entry(
        tenant=meta.tenant_id,
        patient_id=meta.patient_id,
        study_uid=meta.study_uid,
        series_uid=meta.series_uid,
        sop_uid=meta.sop_uid,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        key=meta.file_path,
        size=meta.file_size,
        data_set_offset=meta.data_set_offset,
        sha256=meta.sha256,
        number_of_frames=meta.number_of_frames,
        received=meta.created_time,
        fragments=fragments,
        columns=columns(fragments),
    )
