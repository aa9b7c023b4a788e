"""Keep an object in a second transfer syntax, beside the original, for viewers that do not show that one's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from dicomnode import log, metrics
from dicomnode.dicom.part10 import write_file_meta
from dicomnode.dimse.outgoing import Opened, Outgoing, Sendable, Transcoder
from dicomnode.errors import BadInstance, Corrupt, NotFound
from dicomnode.model.instance import receipt_id
from dicomnode.model.messages import DicomObjectMeta, TransferStatus
from dicomnode.model.representation import Representation, folder_of, form_key
from dicomnode.ports.audit import representations
from dicomnode.ports.storage import LocalPath, Storage

_LOG = log.get("represent")
_CHUNK = 1024 * 1024


class Represent:
    """Keep objects in the transfer syntax that is asked for besides their own, which stays as it is."""

    def __init__(self, storage: Storage, transcoder: Transcoder) -> None:
        self._storage = storage
        self._paths = storage if isinstance(storage, LocalPath) else None
        self._transcoder = transcoder

    async def represent(self, meta: DicomObjectMeta) -> TransferStatus:
        """Have the object of `meta` durable in `meta.target_ts` too, and return what became of it.

        DONE; FAILED where it cannot be decoded, which no retry mends; NOT_NEEDED where the object is gone, as that of a
        duplicate is. Idempotent: what is whole already is not made again, what a crash cut short is removed.

        Raises: Unavailable, Full: nothing is kept; a retry may succeed.
        """
        try:
            status = await self._represented(meta)
        except NotFound:
            status = TransferStatus.NOT_NEEDED
        except (BadInstance, Corrupt) as error:
            _LOG.warning("object.unconvertible", key=meta.file_path, target=meta.target_ts, reason=str(error))
            status = TransferStatus.FAILED
        metrics.REPRESENTED.labels(status.value).inc()
        return status

    async def _represented(self, meta: DicomObjectMeta) -> TransferStatus:
        if await self._is_there(meta):
            return TransferStatus.DONE
        await self._check(meta)
        await self._clear(meta)
        opened = await self._transcoder.transcode(self._original(meta), meta.target_ts)
        try:
            form = await self._kept(meta, opened)
        finally:
            await opened.close()
        if await self._is_there(meta):  # another process took its time, and was thought to be dead
            await self._storage.delete((form.key,))
            return TransferStatus.DONE
        await self._check(meta, form)
        await self._storage.put(form.seal, (b"",))
        return TransferStatus.DONE

    async def _is_there(self, meta: DicomObjectMeta) -> bool:
        forms = await representations(self._storage, meta.file_path)
        return any(form.transfer_syntax_uid == meta.target_ts for form in forms)

    async def _check(self, meta: DicomObjectMeta, form: Representation | None = None) -> None:
        """Return while the original is there as it was received; else nothing is left of `form`, which was made of it.

        Raises: NotFound, Corrupt.
        """
        size = await self._storage.size(meta.file_path)
        if size == meta.file_size:
            return
        if form is not None:
            await self._storage.delete((form.key,))
        if size is None:
            raise NotFound("the original is gone")
        raise Corrupt("storage", f"the original is not the {meta.file_size} bytes that were received")

    async def _clear(self, meta: DicomObjectMeta) -> None:
        """Remove what earlier attempts left: none of them came to its end."""
        begun = f"{folder_of(meta.file_path)}{meta.target_ts}-"
        held = [stored.key async for stored in self._storage.list(folder_of(meta.file_path))]
        if left := [key for key in held if key.startswith(begun)]:
            await self._storage.delete(left)

    async def _kept(self, meta: DicomObjectMeta, opened: Opened) -> Representation:
        """Keep the data set under a key of this attempt, without its seal."""
        prefix = write_file_meta(meta.sop_class_uid, meta.sop_uid, meta.target_ts, meta.source_ae)
        key = form_key(meta.file_path, meta.target_ts, receipt_id())
        digest = hashlib.sha256()
        size = await self._storage.put(key, (prefix,), _hashed(opened, digest))
        return Representation(key, meta.target_ts, len(prefix), size, digest.hexdigest())

    def _original(self, meta: DicomObjectMeta) -> Sendable:
        if self._paths is None:
            return _Original(meta, self._storage)
        path = self._paths.path(meta.file_path)
        return Outgoing(path, meta.sop_class_uid, meta.sop_uid, meta.transfer_syntax_uid, meta.data_set_offset)


class _Original:
    """An object of the storage, to be read by who converts it."""

    def __init__(self, meta: DicomObjectMeta, storage: Storage) -> None:
        self._meta = meta
        self._storage = storage

    @property
    def sop_class_uid(self) -> str:
        """Its SOP class."""
        return self._meta.sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        """Its own UID."""
        return self._meta.sop_uid

    @property
    def transfer_syntax_uid(self) -> str:
        """How it is kept."""
        return self._meta.transfer_syntax_uid

    async def open(self) -> Opened:
        """Return its data set. Raises: NotFound, Corrupt, Unavailable; the rest too."""
        first = await self._piece(self._meta.data_set_offset)
        return Opened(first, self._rest(self._meta.data_set_offset + len(first)))

    async def _rest(self, offset: int) -> AsyncIterator[bytes]:
        while offset < self._meta.file_size:
            piece = await self._piece(offset)
            offset += len(piece)
            yield piece

    async def _piece(self, offset: int) -> bytes:
        wanted = min(_CHUNK, self._meta.file_size - offset)
        piece = await self._storage.read(self._meta.file_path, offset, wanted)
        if len(piece) < wanted:
            raise Corrupt("storage", f"an object is shorter than the {self._meta.file_size} bytes that were kept")
        return piece


async def _hashed(opened: Opened, digest: hashlib._Hash) -> AsyncIterator[bytes | memoryview]:
    await asyncio.to_thread(digest.update, opened.first)
    yield opened.first
    if opened.rest is not None:
        async for chunk in opened.rest:
            await asyncio.to_thread(digest.update, chunk)
            yield chunk
