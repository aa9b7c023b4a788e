"""Make received objects findable, in batches, each step of which may run twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import groupby

from dicomnode import log, metrics
from dicomnode.dicom.matching import columns
from dicomnode.model.entry import Entry, Fate, Policy
from dicomnode.model.messages import DicomObjectMeta
from dicomnode.ports.database import Database
from dicomnode.ports.safekeeping import Received, Safekeeping
from dicomnode.ports.storage import Storage

_LOG = log.get("index")


class Index:
    """Make received objects findable."""

    def __init__(self, database: Database, storage: Storage, policy: Policy) -> None:
        self._database = database
        self._storage = storage
        self._safekeeping = Safekeeping(storage)
        self._policy = policy

    async def take_in(self, received: Sequence[Received]) -> Sequence[Fate | None]:
        """Index `received` in one transaction; return each one's fate, None for an object that never became whole.

        What came with its bytes is durable in the storage first. Files whose data set equals one already kept are
        deleted, after the transaction is committed. Idempotent.

        Raises: Unavailable, Full: nothing was indexed.
        """
        whole = await self._safekeeping.keep(received)
        entries = [_entry(item.meta) for item, kept in zip(received, whole, strict=True) if kept]
        fates = await self._database.index(entries, self._policy) if entries else ()
        repeats = [entry for entry, fate in zip(entries, fates, strict=True) if fate is Fate.DUPLICATE]
        if repeats:
            await self._storage.delete([key async for key in self._spare(repeats)])
        for fate, count in Counter(fates).items():
            metrics.INDEXED.labels(fate.value).inc(count)
        left = iter(fates)
        return [next(left) if kept else None for kept in whole]

    async def _spare(self, repeats: Sequence[Entry]) -> AsyncIterator[str]:
        """Yield the keys of `repeats` whose equal is in storage as the index says: only those are one too many."""
        by_folder = sorted(repeats, key=_folder)  # those of several senders come mixed
        for folder, entries in groupby(by_folder, _folder):
            kept = {location.sha256: location async for location in self._database.keys(f"{folder}/")}
            for entry in entries:
                here = [kept[entry.sha256]] if entry.sha256 in kept else []
                for location in here or await self._database.locate(entry.tenant, "", "", entry.sop_uid):
                    if location.key != entry.key and await self._storage.size(location.key) == location.size:
                        yield entry.key
                        break
                else:
                    _LOG.error("object.missing", kept_instead=entry.key, hint="dicomnode fsck tells what else is")


def _folder(entry: Entry) -> str:
    return entry.key.rpartition("/")[0]


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
