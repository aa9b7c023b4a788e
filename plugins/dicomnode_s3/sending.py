"""How an object gets into the bucket: short ones with one request, longer ones in parts, whole or not at all.

What was put carries a token of its own in its metadata. So after a failure it can be told whether what is under the
key is what this put has made (a request may have had its effect though its answer was lost), or another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterable, Sequence
from typing import Any

import obstore

from dicomnode.errors import NodeError, NotFound, Unavailable
from dicomnode.ports.storage import Buffer
from dicomnode_s3.calls import Calls, ended
from dicomnode_s3.failures import DRIVER, NAME, is_in_use, is_without_conditions, told
from dicomnode_s3.place import ObjectStore

_LOG = logging.getLogger("dicomnode.s3")
_METADATA = "reception"
_PIECE_BYTES = 1024 * 1024
_PARTS_AT_ONCE = 3
_PATIENCE_S = 5.0


class Sender:
    """Puts objects; those of more than `part_bytes` in parts of that size, a few of which are in memory at a time."""

    def __init__(self, store: ObjectStore, calls: Calls, part_bytes: int) -> None:
        self._store = store
        self._calls = calls
        self._part_bytes = part_bytes
        self._conditional = True
        self._coming: set[str] = set()

    async def put(self, key: str, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None) -> int:
        """Have `head` and `rest` under `key`; return their size in bytes. Nothing of ours is left when it raises."""
        if key in self._coming:  # some servers look whether a key is in use, and write a moment later
            raise Unavailable(NAME, "the key is in use already")
        self._coming.add(key)
        try:
            return await self._put(key, head, rest)
        finally:
            self._coming.discard(key)

    async def _put(self, key: str, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None) -> int:
        size = size_of(head)
        if rest is None and size <= self._part_bytes:
            await self._put_whole(key, head)
            return size
        return await self._put_stream(key, Pieces(head, rest))

    async def _put_whole(self, key: str, parts: Sequence[Buffer]) -> None:
        token = secrets.token_hex(8)
        try:
            await self._calls.make_to_its_end(lambda: self._create(key, parts, token))
        except asyncio.CancelledError:
            await self._take_back(key, token)
            raise
        except DRIVER as error:
            # Where an answer was lost, the repeated request meets what the first one has made.
            if is_in_use(error) and await self._is_ours(key, token):
                return
            if not is_in_use(error):
                await self._take_back(key, token)
            raise _told(error) from error

    async def _create(self, key: str, parts: Sequence[Buffer], token: str) -> None:
        named: Any = {"attributes": {_METADATA: token}, "use_multipart": False}
        body: Any = [part for part in parts if len(part)]
        if self._conditional:
            try:
                await obstore.put_async(self._store, key, body, mode="create", **named)
            except DRIVER as error:
                if not is_without_conditions(error):
                    raise
                self._conditional = False
                _LOG.warning("s3.unconditional: the server cannot refuse to write a key again; no key is used twice")
            else:
                return
        await obstore.put_async(self._store, key, body, **named)

    async def _put_stream(self, key: str, pieces: Pieces) -> int:
        first = await pieces.up_to(self._part_bytes)
        if pieces.at_end:
            await self._put_whole(key, first)
        else:
            await self._put_in_parts(key, first, pieces)
        return pieces.size

    async def _put_in_parts(self, key: str, first: Sequence[bytearray], pieces: Pieces) -> None:
        try:
            await self._calls.make_to_its_end(lambda: obstore.head_async(self._store, key))
        except FileNotFoundError:
            pass
        except DRIVER as error:
            raise _told(error) from error
        else:
            raise Unavailable(NAME, "the key is in use already")
        token, feed = secrets.token_hex(8), _Feed()
        upload = await self._calls.begin(lambda: self._upload(key, feed, token))
        try:
            for piece in first:
                await feed.give(piece, upload)
            while (more := await pieces.next()) is not None:
                await feed.give(more, upload)
            await feed.give(None, upload)
            await ended(upload)
        except BaseException as error:
            feed.give_up()
            await _over(upload)
            await self._take_back(key, token)
            if isinstance(error, DRIVER) and upload.done() and upload.exception() is error:
                raise _told(error) from error
            raise

    async def _upload(self, key: str, feed: _Feed, token: str) -> None:
        await obstore.put_async(
            self._store,
            key,
            feed,
            attributes={_METADATA: token},
            use_multipart=True,
            chunk_size=self._part_bytes,
            max_concurrency=_PARTS_AT_ONCE,
        )

    async def _is_ours(self, key: str, token: str) -> bool:
        try:
            found = await self._calls.make(lambda: obstore.get_async(self._store, key, options={"head": True}))
        except NodeError:
            return False
        return found.attributes.get(_METADATA) == token

    async def _take_back(self, key: str, token: str) -> None:
        """Delete what is under `key` if this put has made it; as far as the server answers soon."""
        with contextlib.suppress(NodeError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                if await self._is_ours(key, token):
                    await self._calls.make(lambda: obstore.delete_async(self._store, key))


def _told(error: BaseException) -> NodeError:
    found = told(error)
    return Unavailable(NAME, "the server lost what was sent") if isinstance(found, NotFound) else found


class Pieces:
    """The bytes of an object, as they come, in pieces of some size."""

    def __init__(self, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None) -> None:
        self._head = list(reversed(head))
        self._rest = aiter(rest) if rest is not None else None
        self.size = 0
        self.at_end = False

    async def up_to(self, most: int) -> list[bytearray]:
        """Return pieces until they are longer than `most`, or all."""
        found: list[bytearray] = []
        while self.size <= most and (piece := await self.next()) is not None:
            found.append(piece)
        return found

    async def next(self) -> bytearray | None:
        """Return a piece, which is the caller's: at least a MiB where there is as much; None at the end."""
        piece = bytearray()
        while len(piece) < _PIECE_BYTES and not self.at_end:
            if self._head:
                self._take(piece)
            elif self._rest is None:
                self.at_end = True
            else:
                try:
                    piece += await anext(self._rest)
                except StopAsyncIteration:
                    self.at_end = True
        self.size += len(piece)
        return piece or None

    def _take(self, piece: bytearray) -> None:
        part = memoryview(self._head.pop()).cast("B")
        taken = _PIECE_BYTES - len(piece)
        piece += part[:taken]
        if taken < len(part):
            self._head.append(part[taken:])


class _GivenUpError(Exception):
    """Tells the driver that no more comes, so that it drops what it has sent."""


class _Feed:
    """Hands pieces over to an upload, one at a time."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytearray | _GivenUpError | None] = asyncio.Queue(1)
        self._over = False

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> bytearray:
        piece = await self._pieces.get() if not self._over else _GivenUpError()
        if isinstance(piece, _GivenUpError):
            raise piece
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def give(self, piece: bytearray | None, upload: asyncio.Task[None]) -> None:
        """Have `piece` taken, None for the end; where the upload has failed its error is raised."""
        giving = asyncio.ensure_future(self._pieces.put(piece))
        try:
            await asyncio.wait({giving, upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            giving.cancel()
        if upload.done():
            upload.result()

    def give_up(self) -> None:
        """Have the upload fail, so that nothing of it is kept."""
        self._over = True
        with contextlib.suppress(asyncio.QueueEmpty):
            self._pieces.get_nowait()
        self._pieces.put_nowait(_GivenUpError())


async def _over(upload: asyncio.Task[None]) -> None:
    """Wait until the upload has ended, however."""
    while not upload.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([upload])


def size_of(parts: Sequence[Buffer]) -> int:
    """Return how many bytes `parts` have together."""
    return sum(len(part) if isinstance(part, bytes) else memoryview(part).nbytes for part in parts)
