"""Objects on their way out: what names one and how its data set is read, chunk by chunk. Files are the first kind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import IO, Protocol, Self

import msgspec

from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.part10 import MAX_META_BYTES, read_file_meta
from dicomnode.errors import BadInstance

_DICOMDIR = "1.2.840.10008.1.3.10"
_AT_ONCE = 1024 * 1024  # of a data set no longer than this, all is read in one go
_FILES_AT_ONCE = 256


async def _nothing_to_close() -> None:
    pass


class Opened(msgspec.Struct, frozen=True):
    """The beginning of a data set, and what is left of it, None where that was all; `close` it when it is sent."""

    first: bytes | memoryview
    rest: AsyncIterator[bytes] | None = None
    close: Callable[[], Awaitable[None]] = _nothing_to_close


class Sendable(Protocol):
    """An object that can be sent, wherever its bytes are. It may be opened more than once: a retry reads it again."""

    @property
    def sop_class_uid(self) -> str:
        """Its SOP class."""

    @property
    def sop_instance_uid(self) -> str:
        """Its own UID."""

    @property
    def transfer_syntax_uid(self) -> str:
        """How its data set is encoded."""

    async def open(self) -> Opened:
        """Return its data set, without file meta information; as encoded as `transfer_syntax_uid` says.

        Raises: NodeError; Unavailable where a retry may help.
        """


class Transcoder(Protocol):
    """What can give an object another transfer syntax."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The transfer syntaxes it can make, the best first."""

    async def transcode(self, sendable: Sendable, transfer_syntax_uid: str) -> Opened:
        """Return the data set of the object in that transfer syntax.

        Raises: BadInstance, where it cannot be decoded; NodeError.
        """


class Outgoing(msgspec.Struct, frozen=True):
    """A file to be sent; its data set begins at byte `data_set_offset`."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int

    async def open(self) -> Opened:
        """Return the data set of the file, the first MiB read. Raises: BadInstance."""
        return await asyncio.to_thread(open_file, self.path, self.data_set_offset, self.transfer_syntax_uid)


class _Rest:
    """What is left of a file, chunk by chunk; one is read while the one before is sent."""

    def __init__(self, file: IO[bytes], padding: bytes) -> None:
        self._file = file
        self._padding = padding
        self._ahead: asyncio.Future[bytes] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await (self._ahead or self._read())
        except OSError as error:
            raise BadInstance(f"cannot be read: {error.strerror}") from error
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
            self._ahead.exception()
        self._file.close()

    def _read(self) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(asyncio.to_thread(self._file.read, _AT_ONCE))


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


async def outgoing_files(
    paths: Iterable[Path], on_unfit: Callable[[Path, BadInstance], None]
) -> AsyncIterator[Outgoing]:
    """Yield what can be sent of `paths`, in order, a batch read ahead in a thread; tell `on_unfit` of the others."""
    left = iter(paths)
    while batch := await asyncio.to_thread(_read_batch, left):
        for path, found in batch:
            if isinstance(found, Outgoing):
                yield found
            else:
                on_unfit(path, found)


def _read_batch(paths: Iterable[Path]) -> list[tuple[Path, Outgoing | BadInstance]]:
    found: list[tuple[Path, Outgoing | BadInstance]] = []
    for path in islice(paths, _FILES_AT_ONCE):
        try:
            found.append((path, read_outgoing(path)))
        except BadInstance as error:
            found.append((path, error))
    return found


def open_file(path: Path, data_set_offset: int, transfer_syntax_uid: str) -> Opened:
    """Return the data set of a file, the first MiB read; blocks. Raises: BadInstance."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise BadInstance(f"cannot be read: {error.strerror}") from error
    try:
        size = file.seek(0, os.SEEK_END) - data_set_offset
        file.seek(data_set_offset)
        first = file.read(_AT_ONCE) or b""
    except OSError as error:
        file.close()
        raise BadInstance(f"cannot be read: {error.strerror}") from error
    # A deflated data set of odd length is padded on its way (PS3.5 A.5); any other would be damaged by that.
    padding = b"\0" if size & 1 and transfer_syntax.of(transfer_syntax_uid).deflated else b""
    if len(first) == _AT_ONCE:
        rest = _Rest(file, padding)
        return Opened(first, rest, rest.close)
    file.close()
    return Opened(first + padding)
