"""Take an object in: bytes durable, message durable, and only then a success. C-STORE, STOW and import meet here."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence

import msgspec

from dicomnode import metrics
from dicomnode.config import IngestTable
from dicomnode.dicom.digest import Digest
from dicomnode.dicom.header import read_header
from dicomnode.dicom.part10 import write_file_meta
from dicomnode.dicom.uid import component
from dicomnode.errors import BadInstance, Full, Mismatch, PluginError
from dicomnode.model.instance import Arrival, Header, Stored, receipt_id
from dicomnode.model.messages import (
    INDEXING_GROUP,
    LOG_QUEUE,
    STORAGE_QUEUE,
    DicomObjectMeta,
    encode,
    object_meta,
    without_attributes,
)
from dicomnode.model.viewers import Viewers
from dicomnode.ports.broker import Broker, Carrier, Message, Overlap
from dicomnode.ports.storage import Buffer, Deferring, Storage

# Below this the hash takes less time than starting the write as a task of its own would.
_HASH_BESIDE_WRITE = 64 * 1024
_VIEWERS = Viewers()


class Ingest:
    """Take objects in, whichever door they came through. What `viewers` do not show is marked to be converted.

    `reader` is the group that takes the messages from `broker`.
    """

    def __init__(
        self,
        storage: Storage,
        broker: Broker,
        table: IngestTable,
        viewers: Viewers = _VIEWERS,
        reader: str = INDEXING_GROUP,
    ) -> None:
        self._reader = reader
        self._asking = viewers.asking
        self._storage = storage
        self._broker = broker
        self._overlap = broker if isinstance(broker, Overlap) else None
        self._carrier = broker if isinstance(broker, Carrier) else None
        self._deferring = storage if isinstance(storage, Deferring) else None
        self._carried = table.carried
        self._strict = table.strict
        self._max_header = table.max_header

    async def store(self, arrival: Arrival, data_set: Buffer, digest: Digest | None = None) -> Stored:
        """Keep an object whose whole data set (without file meta information) is at hand.

        On return the object and the message that tells of it survive a crash; `data_set` is not used any more.
        `digest` is that of its beginning, where the door made one while it arrived.

        Raises:
            BadInstance, Mismatch: the object is refused; the sender must change it.
            Full, Unavailable: the node failed; nothing is kept, a retry may succeed.
        Source: PS3.4 B.2.3, PS3.18 10.5.
        """
        started = time.perf_counter()
        try:
            header = read_header(data_set, arrival.transfer_syntax_uid)
            assert header is not None
            stored = await self._keep(arrival, self._judged(arrival, header), data_set, digest or Digest())
        except (BadInstance, PluginError) as error:
            _count_failure(arrival, error)
            raise
        _count_success(arrival, stored, started)
        return stored

    async def store_stream(self, arrival: Arrival, first: Buffer, rest: AsyncIterator[Buffer]) -> Stored:
        """Keep an object of which `first` is at hand and `rest` is still to come; otherwise as `store`.

        Holds no more in memory than `first` and one chunk, or `ingest.max_header` where the header itself is long.
        """
        started = time.perf_counter()
        try:
            head, header = await self._read_head(arrival, first, rest)
            stored = await self._keep_stream(arrival, self._judged(arrival, header), head, rest)
        except (BadInstance, PluginError) as error:
            _count_failure(arrival, error)
            raise
        _count_success(arrival, stored, started)
        return stored

    async def _keep(self, arrival: Arrival, header: Header, data_set: Buffer, digest: Digest) -> Stored:
        ways = self._ways_to_carry(len(data_set))
        if ways is not None:
            return await self._keep_with_message(arrival, header, data_set, digest, ways)
        return await self._keep_beside_message(arrival, header, data_set, digest)

    def _ways_to_carry(self, size: int) -> tuple[Carrier, Deferring] | None:
        """Return what keeps an object of `size` bytes with its message; None where it cannot, or gains nothing."""
        carrier, storage = self._carrier, self._deferring
        if size > self._carried or carrier is None or storage is None or not storage.defers:
            return None
        return (carrier, storage) if carrier.carries(STORAGE_QUEUE, self._reader) else None

    async def _keep_with_message(
        self, arrival: Arrival, header: Header, data_set: Buffer, digest: Digest, to: tuple[Carrier, Deferring]
    ) -> Stored:
        """Have the bytes durable with the message; the index sees to it that the file is, before the message goes."""
        carrier, storage = to
        key, prefix = _key(arrival, header), _prefix(arrival, header)
        meta = self._asking(object_meta(arrival, header, key, len(prefix), len(data_set), digest.finish(data_set)))
        await storage.put_soon(key, (prefix, data_set))
        try:
            await carrier.publish_laden(_messages(meta), (prefix, data_set))
        except PluginError:
            await self._take_back(meta)
            raise
        return _stored(header, meta)

    async def _keep_beside_message(self, arrival: Arrival, header: Header, data_set: Buffer, digest: Digest) -> Stored:
        """Have the file and the message durable, both at once."""
        key, prefix = _key(arrival, header), _prefix(arrival, header)
        put: Awaitable[int] | None = None
        if len(data_set) > _HASH_BESIDE_WRITE:
            put = asyncio.ensure_future(self._storage.put(key, (prefix, data_set)))
            await asyncio.sleep(0)  # the write is under way in its thread while the digest is made here
        meta = self._asking(object_meta(arrival, header, key, len(prefix), len(data_set), digest.finish(data_set)))
        await self._announce_beside(meta, put or self._storage.put(key, (prefix, data_set)))
        return _stored(header, meta)

    async def _keep_stream(self, arrival: Arrival, header: Header, head: Buffer, rest: AsyncIterator[Buffer]) -> Stored:
        key, prefix = _key(arrival, header), _prefix(arrival, header)
        digest = hashlib.sha256()
        await asyncio.to_thread(digest.update, head)
        size = await self._storage.put(key, (prefix, head), _hashed(rest, digest))
        meta = self._asking(object_meta(arrival, header, key, len(prefix), size - len(prefix), digest.hexdigest()))
        await self._announce(meta)
        return _stored(header, meta)

    async def _read_head(self, arrival: Arrival, first: Buffer, rest: AsyncIterator[Buffer]) -> tuple[Buffer, Header]:
        header = read_header(first, arrival.transfer_syntax_uid, complete=False)
        if header is not None:
            return first, header
        gathered, looked_at = bytearray(first), len(first)
        async for chunk in rest:
            gathered += chunk
            if len(gathered) > self._max_header:
                raise BadInstance(f"the identifying attributes do not come within {self._max_header} bytes")
            if len(gathered) >= 2 * looked_at:  # each look starts anew, so look seldom
                looked_at = len(gathered)
                header = read_header(gathered, arrival.transfer_syntax_uid, complete=False)
                if header is not None:
                    return gathered, header
        header = read_header(gathered, arrival.transfer_syntax_uid)
        assert header is not None
        return gathered, header

    def _judged(self, arrival: Arrival, header: Header) -> Header:
        """Return `header`, with a warning added where it is not what was announced. Raises: Mismatch, BadInstance."""
        if arrival.study_uid and arrival.study_uid != header.study_uid:
            raise Mismatch("the object is of another study than the one it was sent to")
        differs = [
            name
            for name, announced, found in (
                ("SOPClassUID", arrival.sop_class_uid, header.sop_class_uid),
                ("SOPInstanceUID", arrival.sop_instance_uid, header.sop_instance_uid),
            )
            if announced and announced != found
        ]
        if differs and self._strict:
            raise Mismatch(f"{' and '.join(differs)} of the data set differ from what was announced")
        if header.warnings and self._strict:
            raise BadInstance("; ".join(header.warnings))
        return _with_warnings(header, differs) if differs else header

    async def _announce_beside(self, meta: DicomObjectMeta, put: Awaitable[int]) -> None:
        if self._overlap is None:
            await put
            await self._announce(meta)
            return
        try:
            await self._overlap.publish_beside(_messages(meta), put)
        except PluginError:
            await self._take_back(meta)
            raise

    async def _announce(self, meta: DicomObjectMeta) -> None:
        try:
            await self._broker.publish(_messages(meta))
        except PluginError:
            await self._take_back(meta)
            raise

    async def _take_back(self, meta: DicomObjectMeta) -> None:
        """Delete what was kept but could not be announced: its sender hears of a failure and sends again."""
        try:
            await self._storage.delete((meta.file_path,))
        except PluginError:
            return  # an object without a message harms nobody; `dicomnode sweep` finds it


def _key(arrival: Arrival, header: Header) -> str:
    date = header.study_date
    if not (len(date) == 8 and date.isascii() and date.isdigit()):
        date = time.strftime("%Y%m%d", time.gmtime())
    return (
        f"{arrival.tenant}/{date}/{component(header.study_uid)}/{component(header.series_uid)}/"
        f"{component(header.sop_instance_uid)}-{receipt_id()}.dcm"
    )


def _prefix(arrival: Arrival, header: Header) -> bytes:
    return write_file_meta(
        header.sop_class_uid, header.sop_instance_uid, arrival.transfer_syntax_uid, arrival.source_aet
    )


def _messages(meta: DicomObjectMeta) -> Sequence[Message]:
    return (
        Message(STORAGE_QUEUE, meta.study_uid, encode(meta)),
        Message(LOG_QUEUE, meta.study_uid, encode(without_attributes(meta))),
    )


def _stored(header: Header, meta: DicomObjectMeta) -> Stored:
    return Stored(
        meta.file_path,
        meta.sop_class_uid,
        meta.sop_uid,
        meta.study_uid,
        meta.series_uid,
        meta.file_size,
        header.warnings,
    )


def _with_warnings(header: Header, differs: Sequence[str]) -> Header:
    added = tuple(f"{name} differs from what was announced" for name in differs)
    return msgspec.structs.replace(header, warnings=header.warnings + added)


async def _hashed(chunks: AsyncIterator[Buffer], digest: hashlib._Hash) -> AsyncIterator[Buffer]:
    async for chunk in chunks:
        await asyncio.to_thread(digest.update, chunk)
        yield chunk


def _count_success(arrival: Arrival, stored: Stored, started: float) -> None:
    metrics.INSTANCES.labels(arrival.door.value, "warned" if stored.warnings else "stored").inc()
    metrics.STORED_BYTES.inc(stored.size)
    metrics.INGEST_SECONDS.observe(time.perf_counter() - started)


def _count_failure(arrival: Arrival, error: Exception) -> None:
    outcome = "refused" if isinstance(error, BadInstance) else "full" if isinstance(error, Full) else "failed"
    metrics.INSTANCES.labels(arrival.door.value, outcome).inc()
