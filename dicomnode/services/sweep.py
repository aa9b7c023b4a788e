"""Find objects that storage has and the index lacks, and make their messages again."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import msgspec

from dicomnode import log
from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.header import read_header
from dicomnode.dicom.part10 import FileMeta, read_file_meta
from dicomnode.dicom.whole import HEADER, ends_whole
from dicomnode.errors import BadInstance, NotFound
from dicomnode.model.instance import Arrival, Door, Header
from dicomnode.model.messages import LOG_QUEUE, STORAGE_QUEUE, DicomObjectMeta, encode, object_meta, without_attributes
from dicomnode.model.query import Location
from dicomnode.model.viewers import Viewers
from dicomnode.ports.audit import objects, sha256_of
from dicomnode.ports.broker import Broker, Message
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage, StoredObject

_LOG = log.get("sweep")
_CHUNK = 1024 * 1024
_HEAD = 128 * 1024
_MOST_HEADER = 64 * _CHUNK
_WINDOW = 4096
_VIEWERS = Viewers()


class Swept(msgspec.Struct, frozen=True):
    """What a sweep found: objects of storage, messages made again, and the keys that are no whole object."""

    objects: int
    published: int
    incomplete: tuple[str, ...]


class Sweep:
    """Make lost messages again."""

    def __init__(self, storage: Storage, broker: Broker, database: Database, viewers: Viewers = _VIEWERS) -> None:
        self._storage = storage
        self._broker = broker
        self._database = database
        self._viewers = viewers

    async def run(self, told: Callable[[], object] = lambda: None) -> Swept:
        """Publish a message for each whole object that the index does not know; return what was found.

        Run it when nothing is being received: an object on its way in looks like one that was lost. Idempotent.
        `told` is called for each object.
        """
        count, published, incomplete = 0, 0, []
        async for stored, is_known in objects(self._storage, self._database):
            count += 1
            told()
            if is_known:
                continue
            message = await self._message(stored)
            if message is None:
                incomplete.append(stored.key)
                _LOG.warning("object.incomplete", key=stored.key, size=stored.size)
            else:
                await self._broker.publish((message,))
                published += 1
        return Swept(count, published, tuple(incomplete))

    async def _message(self, stored: StoredObject) -> Message | None:
        try:
            meta, header = await self._read_head(stored)
            if not await self._is_whole(stored, meta):
                return None
            digest = await sha256_of(self._storage, stored.key, meta.data_set_offset)
        except (BadInstance, NotFound):
            return None
        told = self._told(stored, meta, header, digest)
        return Message(STORAGE_QUEUE, header.study_uid, encode(told))

    async def tell_again(self, location: Location) -> bool:
        """Publish what was published when an indexed object came in; return whether it is there and can be read.

        It is not read whole: its digest is the index's. Idempotent. Raises: Unavailable, Full.
        """
        size = await self._storage.size(location.key)
        if size is None:
            return False
        stored = StoredObject(location.key, size)
        try:
            meta, header = await self._read_head(stored)
        except (BadInstance, NotFound):
            return False
        told = self._told(stored, meta, header, location.sha256)
        row = Message(LOG_QUEUE, told.study_uid, encode(without_attributes(told)))
        await self._broker.publish((Message(STORAGE_QUEUE, told.study_uid, encode(told)), row))
        return True

    def _told(self, stored: StoredObject, meta: FileMeta, header: Header, digest: str) -> DicomObjectMeta:
        tenant, offset = stored.key.split("/", 1)[0], meta.data_set_offset
        arrival = Arrival(tenant, Door.SWEEP, meta.transfer_syntax_uid, source_aet=meta.source_aet)
        return self._viewers.asking(object_meta(arrival, header, stored.key, offset, stored.size - offset, digest))

    async def _read_head(self, stored: StoredObject) -> tuple[FileMeta, Header]:
        size = _HEAD
        while True:
            head = await self._storage.read(stored.key, 0, size)
            complete = len(head) == stored.size
            meta = read_file_meta(head, complete=complete)
            if meta is not None:
                rest = memoryview(head)[meta.data_set_offset :]
                header = await asyncio.to_thread(read_header, rest, meta.transfer_syntax_uid, complete=complete)
                if header is not None:
                    return meta, header
            if size > _MOST_HEADER:
                raise BadInstance(f"the identifying attributes do not come within {_MOST_HEADER} bytes")
            size *= 2

    async def _is_whole(self, stored: StoredObject, meta: FileMeta) -> bool:
        syntax = transfer_syntax.of(meta.transfer_syntax_uid)
        if syntax.deflated:
            return await self._inflates(stored, meta.data_set_offset)
        walk = ends_whole(syntax, meta.data_set_offset, stored.size)
        window, begin = b"", 0
        try:
            at = next(walk)
            while True:
                if not begin <= at <= begin + len(window) - HEADER:
                    window, begin = await self._storage.read(stored.key, at, _WINDOW), at
                at = walk.send(window[at - begin : at - begin + HEADER])
        except StopIteration as end:
            return bool(end.value)

    async def _inflates(self, stored: StoredObject, offset: int) -> bool:
        """Tell whether the deflated stream has its end, without holding what it inflates to."""
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        while not stream.eof and (chunk := await self._storage.read(stored.key, offset, _CHUNK)):
            offset += len(chunk)
            while chunk and not stream.eof:
                await asyncio.to_thread(stream.decompress, chunk, _CHUNK)
                chunk = stream.unconsumed_tail
        return stream.eof
