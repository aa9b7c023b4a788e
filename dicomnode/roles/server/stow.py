"""STOW-RS: store (PS3.18 10.5). Bodies are read as they come; one bad part never spoils the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from email.message import Message

import msgspec
from aiohttp import web

from dicomnode import metrics
from dicomnode.config import ServerLimitsTable
from dicomnode.dicom.multipart import Event, Finished, MultipartParser, PartData, PartEnded, PartStarted
from dicomnode.dicom.native_xml import to_native_xml
from dicomnode.dicom.part10 import FileMeta, read_file_meta
from dicomnode.errors import BadInstance, BadRequest, NodeError
from dicomnode.model.instance import Arrival, Door
from dicomnode.roles.server.accept import DICOM, JSON, MULTIPART, XML, choose_text
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.problem import HttpProblem
from dicomnode.roles.server.stow_reply import Failure, Outcome, reply, status

_CHUNK = 1024 * 1024
_AT_ONCE = 8
_LONGEST_HEADER = 512 * 1024


class Stow:
    """The store transaction. At most eight parts held in memory are on their way into the node, over all requests."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def store(self, call: Call) -> web.Response:
        """Store every part of the request; answer what became of each."""
        text_type = choose_text(call.ranges(), (JSON, XML)) or JSON
        events = _events(call, *_media_type(call))
        outcomes = await _Request(call, events, self._room).outcomes()
        if not outcomes:
            raise BadRequest("the body has no parts")
        answer = reply(outcomes, call.base_url(), to_study=bool(call.params.get("study")))
        body = to_native_xml(answer) if text_type == XML else msgspec.json.encode(answer)
        return call.answer(body, text_type, status(outcomes))


class _Request:
    """The parts of one request, and what becomes of them, in order."""

    def __init__(self, call: Call, events: AsyncIterator[Event], room: asyncio.Semaphore) -> None:
        self._call = call
        self._limits = call.table.limits
        self._events = events
        self._room = room
        self._outcomes: list[Outcome | asyncio.Task[Outcome]] = []

    async def outcomes(self) -> list[Outcome]:
        """Take in all parts; those that were complete count, even when the body is cut short behind them."""
        problem: NodeError | None = None
        try:
            async for event in self._events:
                if isinstance(event, PartStarted):
                    await self._part(event.headers)
        except BadRequest as error:
            problem = error
        finally:
            tasks = [outcome for outcome in self._outcomes if isinstance(outcome, asyncio.Task)]
            await asyncio.gather(*tasks, return_exceptions=True)
        found = [outcome.result() if isinstance(outcome, asyncio.Task) else outcome for outcome in self._outcomes]
        if problem is not None:
            if not found:
                raise problem
            found.append(Failure(BadInstance(str(problem))))
        return found

    async def _part(self, headers: Mapping[str, str]) -> None:
        media_type = headers.get("content-type", DICOM).split(";")[0].strip().lower()
        if media_type != DICOM:
            await self._skip()
            self._outcomes.append(Failure(BadInstance(f"the Content-Type of a part must be {DICOM}")))
            return
        held, size = list[memoryview](), 0
        async for event in self._events:
            if isinstance(event, PartData):
                held.append(event.data)
                size += len(event.data)
                if size > self._limits.held_in_memory:
                    self._outcomes.append(await self._large(b"".join(held), size))
                    return
            elif isinstance(event, PartEnded):
                await self._room.acquire()
                task = asyncio.create_task(self._small(b"".join(held)))
                task.add_done_callback(lambda _: self._room.release())
                self._outcomes.append(task)
                return

    async def _small(self, file: bytes) -> Outcome:
        meta: FileMeta | None = None
        try:
            meta = _meta(file)
            data_set = memoryview(file)[meta.data_set_offset :]
            with metrics.handling("ingest"):
                return await self._call.services.ingest.store(self._arrival(meta), data_set)
        except NodeError as error:
            return _failure(error, meta)

    async def _large(self, first: bytes, size: int) -> Outcome:
        """Stream a part of which `first` is at hand; leave the events behind its end."""
        meta: FileMeta | None = None
        rest = _Rest(self._events, self._limits.part - size)
        try:
            meta = _meta(first)
            data_set = memoryview(first)[meta.data_set_offset :]
            with metrics.handling("ingest"):
                return await self._call.services.ingest.store_stream(self._arrival(meta), data_set, rest.chunks())
        except BadRequest:
            raise  # the body itself is at fault, so no part follows
        except NodeError as error:
            return _failure(error, meta)
        finally:
            if not rest.ended:
                await self._skip()

    async def _skip(self) -> None:
        async for event in self._events:
            if isinstance(event, PartEnded):
                return

    def _arrival(self, meta: FileMeta) -> Arrival:
        return Arrival(
            tenant=self._call.tenant,
            door=Door.STOW,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            study_uid=self._call.uid("study"),
            source_ip=self._call.client(),
        )


class _Rest:
    """What is left of a part, in pieces of about 1 MiB; `most` bytes at the most."""

    def __init__(self, events: AsyncIterator[Event], most: int) -> None:
        self._events = events
        self._left = most
        self.ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the pieces. Raises: BadInstance, the part is too long; BadRequest, the body is cut short."""
        held, size = list[memoryview](), 0
        async for event in self._events:
            if isinstance(event, PartEnded):
                self.ended = True
                break
            if isinstance(event, PartData):
                held.append(event.data)
                size += len(event.data)
                self._left -= len(event.data)
                if self._left < 0:
                    raise BadInstance("the part is longer than server.limits.part allows")
                if size >= _CHUNK:
                    yield b"".join(held)
                    held, size = [], 0
        if held:
            yield b"".join(held)


def _meta(file: bytes) -> FileMeta:
    meta = read_file_meta(file, complete=True)
    assert meta is not None
    return meta


def _failure(error: NodeError, meta: FileMeta | None) -> Failure:
    return Failure(error, meta.sop_class_uid, meta.sop_instance_uid) if meta else Failure(error)


def _media_type(call: Call) -> tuple[str, str]:
    """Return the media type of the body, DICOM or MULTIPART, and its boundary. Raises: HttpProblem, BadRequest."""
    header = call.request.headers.get("Content-Type", "")
    message = Message()
    message["Content-Type"] = header[:_LONGEST_HEADER]
    media_type = message.get_content_type()
    if media_type == DICOM and header:
        return DICOM, ""
    root = str(message.get_param("type", DICOM)).strip().lower()
    if media_type != MULTIPART or root != DICOM:
        raise HttpProblem(
            415,
            "objects are stored as multipart/related with parts of application/dicom",
            f'Content-Type: {MULTIPART}; type="{DICOM}"; boundary=…',
            {"Accept-Post": f'{MULTIPART}; type="{DICOM}", {DICOM}'},
        )
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise BadRequest("Content-Type names no boundary")
    return MULTIPART, boundary


async def _events(call: Call, media_type: str, boundary: str) -> AsyncIterator[Event]:
    """Yield the events of the body; a body that is one object is one part."""
    limits = call.table.limits
    if media_type == MULTIPART:
        parser = MultipartParser(
            boundary.encode("latin-1", "replace"), most_parts=limits.parts, most_headers=limits.part_headers
        )
        async for data in _body(call, limits):
            for event in parser.feed(data):
                yield event
                if isinstance(event, Finished):
                    return
        parser.close()
        return
    yield PartStarted({})
    async for data in _body(call, limits):
        yield PartData(memoryview(data))
    yield PartEnded()


async def _body(call: Call, limits: ServerLimitsTable) -> AsyncIterator[bytes]:
    content, total = call.request.content, 0
    while True:
        try:
            async with asyncio.timeout(limits.idle_s):
                data = await content.readany()
        except TimeoutError:
            raise HttpProblem(408, f"nothing came for {limits.idle_s:g} s", headers={"Connection": "close"}) from None
        if not data:
            return
        total += len(data)
        if total > limits.request_body:
            raise HttpProblem(413, f"the body is longer than server.limits.request_body, {limits.request_body} bytes")
        yield data
