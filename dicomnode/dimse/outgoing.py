"""Files on their way out: their file meta information is read, their data set goes as it is, in chunks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO, Self

import msgspec

from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.part10 import MAX_META_BYTES, read_file_meta
from dicomnode.errors import BadInstance

_DICOMDIR = "1.2.840.10008.1.3.10"
_AT_ONCE = 1024 * 1024  # of a file no longer than this, all is read in one go


class Outgoing(msgspec.Struct, frozen=True):
    """A file to be sent; its data set begins at byte `data_set_offset`."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int


class Rest:
    """What is left of a file, chunk by chunk; one is read while the one before is sent."""

    def __init__(self, file: IO[bytes], padding: bytes) -> None:
        self._file = file
        self._padding = padding
        self._ahead: asyncio.Future[bytes] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await (self._ahead or self._read())
        if not chunk:
            chunk, self._padding = self._padding, b""
            if not chunk:
                raise StopAsyncIteration
        self._ahead = self._read()
        return chunk

    async def close(self) -> None:
        """Close the file, however much of it was read."""
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
        self._file.close()

    def _read(self) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(asyncio.to_thread(self._file.read, _AT_ONCE))


class Opened(msgspec.Struct, frozen=True):
    """The beginning of a file's data set, and what is left of it, None where that was all."""

    first: bytes
    rest: Rest | None

    async def close(self) -> None:
        """Be done with the file."""
        if self.rest is not None:
            await self.rest.close()


def read_outgoing(path: Path) -> Outgoing:
    """Return what must be known of a file to send it; blocks. Raises: BadInstance."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            meta = read_file_meta(head, len(head) < 4096)
            if meta is None:
                head += file.read(MAX_META_BYTES + 512)
                meta = read_file_meta(head, complete=True)
    except OSError as error:
        raise BadInstance(f"cannot be read: {error.strerror}") from error
    if meta is None or not meta.sop_class_uid or not meta.sop_instance_uid:
        raise BadInstance("the file meta information does not name the SOP class and the SOP instance")
    if meta.sop_class_uid == _DICOMDIR:
        raise BadInstance("a DICOMDIR is no object that can be sent")
    return Outgoing(path, meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, meta.data_set_offset)


async def open_outgoing(outgoing: Outgoing) -> Opened:
    """Return the data set of a file, the first MiB read. Raises: BadInstance."""
    return await asyncio.to_thread(_open, outgoing)


def _open(outgoing: Outgoing) -> Opened:
    try:
        file = outgoing.path.open("rb", buffering=0)
        size = file.seek(0, os.SEEK_END) - outgoing.data_set_offset
        file.seek(outgoing.data_set_offset)
        first = file.read(_AT_ONCE) or b""
    except OSError as error:
        raise BadInstance(f"cannot be read: {error.strerror}") from error
    # A deflated data set of odd length is padded on its way (PS3.5 A.5); any other would be damaged by that.
    padding = b"\0" if size & 1 and transfer_syntax.of(outgoing.transfer_syntax_uid).deflated else b""
    if len(first) == _AT_ONCE:
        return Opened(first, Rest(file, padding))
    file.close()
    return Opened(first + padding, None)
