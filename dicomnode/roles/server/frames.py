"""Frames and bulk data (PS3.18 10.4, 8.7): pixels as they are kept, native ones little endian."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from dicomnode.dicom.frames import FrameIndex
from dicomnode.dicom.multipart import MultipartWriter
from dicomnode.dicom.transfer_syntax import of
from dicomnode.errors import BadRequest, NotFound
from dicomnode.model.query import Location
from dicomnode.roles.server.accept import OCTETS, Form, choose_bulk
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.problem import HttpProblem

_MOST = 10_000
_PIXEL_DATA = frozenset({"7FE00010", "7FE00008", "7FE00009"})
_CACHED = "private, max-age=3600"


async def frame_list(call: Call) -> web.StreamResponse:
    """Retrieve the frames that a list names, in its order."""
    numbers = _numbers(call.params["frames"])
    location = await call.services.retrieve.locate_one(*call.uids())
    return await _frames(call, location, numbers)


async def all_frames(call: Call, location: Location) -> web.StreamResponse:
    """Retrieve every frame of an instance."""
    index = await call.services.retrieve.frame_index(location)
    return await _frames(call, location, range(1, index.count + 1))


async def bulk(call: Call) -> web.StreamResponse:
    """Retrieve one value that metadata refer to."""
    location = await call.services.retrieve.locate_one(*call.uids())
    path = call.params["path"].strip("/").upper()
    if path in _PIXEL_DATA:
        return await all_frames(call, location)
    value, _ = await call.services.retrieve.value(location, path)
    form = choose_bulk(call.ranges(), OCTETS, "", single=True)
    if form is None:
        raise HttpProblem(406, f"bulk data are sent as {OCTETS}", f'Accept: multipart/related; type="{OCTETS}"')
    body = call.services.retrieve.value_chunks(location, value)
    if not form.multipart:
        return await call.stream(body, OCTETS, value.length)
    writer = MultipartWriter(OCTETS)
    head = writer.part_head(OCTETS)
    length = len(head) + value.length + len(writer.closing)
    return await call.stream(_around(head, body, writer.closing), writer.content_type, length)


def _numbers(text: str) -> Sequence[int]:
    parts = text.split(",")
    if len(parts) > _MOST or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise BadRequest(f"frames are up to {_MOST} numbers apart by commas")
    numbers = [int(part) for part in parts]
    if 0 in numbers:
        raise BadRequest("frames are counted from 1")
    return numbers


async def _frames(call: Call, location: Location, numbers: Sequence[int]) -> web.StreamResponse:
    etag = f'"{location.sha256[:32]}"'
    if etag in call.request.headers.get("If-None-Match", ""):
        return call.answer(status=304, headers={"ETag": etag, "Cache-Control": _CACHED})
    index = await call.services.retrieve.frame_index(location)
    if max(numbers) > index.count:
        raise NotFound(f"there is no frame {max(numbers)}; the instance has {index.count}")
    form = choose_bulk(call.ranges(), index.media_type, index.transfer_syntax_uid, single=len(numbers) == 1)
    if form is None:
        other = await _other_form(call, location, single=len(numbers) == 1)
        if other is not location:
            return await _frames(call, other, numbers)
        raise HttpProblem(
            406,
            "nothing is transcoded, and what is stored is not what may be sent",
            f"stored: {index.media_type}; transfer-syntax={index.transfer_syntax_uid}",
        )
    call.headers.update({"ETag": etag, "Cache-Control": _CACHED, "Vary": "Accept"})
    part_type = f"{form.media_type}; transfer-syntax={index.transfer_syntax_uid}"
    if len(numbers) == 1:
        return await _one(call, location, index, numbers[0], (form, part_type))
    writer = MultipartWriter(form.media_type)
    return await call.stream(_many(call, location, index, numbers, (writer, part_type)), writer.content_type)


async def _other_form(call: Call, location: Location, *, single: bool) -> Location:
    """Return where the object is kept in another transfer syntax, of which the client takes frames; else `location`."""
    ranges = call.ranges()

    def takes(uid: str) -> bool:
        kept = location.transfer_syntax_uid
        return uid != kept and choose_bulk(ranges, of(uid).media_type, uid, single=single) is not None

    (other,) = await call.services.retrieve.suited((location,), takes)
    return other


async def _one(
    call: Call, location: Location, index: FrameIndex, number: int, typed: tuple[Form, str]
) -> web.StreamResponse:
    form, part_type = typed
    frame = await call.services.retrieve.frame(location, index, number)
    if not form.multipart:
        return await call.pieces((frame,), part_type)
    writer = MultipartWriter(form.media_type)
    return await call.pieces((writer.part_head(part_type), frame, writer.closing), writer.content_type)


async def _many(
    call: Call, location: Location, index: FrameIndex, numbers: Sequence[int], written: tuple[MultipartWriter, str]
) -> AsyncIterator[bytes | memoryview]:
    writer, part_type = written
    for number in numbers:
        frame = await call.services.retrieve.frame(location, index, number)
        yield writer.part_head(part_type)
        yield frame
    yield writer.closing


async def _around(head: bytes, body: AsyncIterator[bytes], closing: bytes) -> AsyncIterator[bytes]:
    yield head
    async for piece in body:
        yield piece
    yield closing
