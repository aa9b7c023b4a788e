"""WADO-RS and WADO-URI: whole objects, in a transfer syntax that they are kept in, and metadata (PS3.18 9, 10.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from dicomnode.dicom.multipart import MultipartWriter
from dicomnode.errors import BadRequest
from dicomnode.model.query import Location
from dicomnode.roles.server import frames
from dicomnode.roles.server.accept import DICOM, JSON, choose_objects, choose_text, wants_bulk
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.problem import HttpProblem

_CACHED = "private, max-age=3600"
_URI_TYPES = ("", DICOM, "*/*", "application/*")


async def study_or_series(call: Call) -> web.StreamResponse:
    """Retrieve every object of a study or series."""
    return await _objects(call, await _suited(call, await call.services.retrieve.locate(*call.uids())))


async def instance(call: Call) -> web.StreamResponse:
    """Retrieve one object."""
    location = await call.services.retrieve.locate_one(*call.uids())
    if wants_bulk(call.ranges()):
        return await frames.all_frames(call, location)
    (location,) = await _suited(call, (location,))
    if not_modified(call, etag := f'"{location.sha256[:32]}"'):
        return call.answer(status=304, headers={"ETag": etag, "Cache-Control": _CACHED})
    call.headers.update({"ETag": etag, "Cache-Control": _CACHED, "Vary": "Accept"})
    return await _objects(call, (location,))


async def metadata(call: Call) -> web.StreamResponse:
    """Retrieve the attributes of each instance."""
    if choose_text(call.ranges(), (JSON,)) is None:
        raise HttpProblem(406, "metadata are sent as application/dicom+json", "Accept: application/dicom+json")
    locations = await call.services.retrieve.locate(*call.uids())
    base = call.base_url()

    def bulk_uri(location: Location) -> str:
        return f"{instance_url(base, location)}/bulkdata"

    return await call.stream(call.services.describe.instances(locations, bulk_uri), JSON)


async def uri(call: Call) -> web.StreamResponse:
    """Retrieve one object by WADO-URI."""
    query = call.request.query
    if query.get("requestType", "").upper() != "WADO":
        raise BadRequest("requestType must be WADO")
    sop_uid = query.get("objectUID", "")
    if not sop_uid:
        raise BadRequest("objectUID is missing")
    if query.get("contentType", "").split(";")[0].strip().lower() not in _URI_TYPES:
        raise HttpProblem(406, "objects are sent as they are stored", "contentType=application/dicom")
    names = (call.tenant, query.get("studyUID", ""), query.get("seriesUID", ""), sop_uid)
    location = await call.services.retrieve.locate_one(*names)
    asked = query.get("transferSyntax", "*")
    if asked not in ("", "*"):
        (location,) = await call.services.retrieve.suited((location,), lambda uid: uid == asked)
        if location.transfer_syntax_uid != asked:
            raise _not_acceptable(frozenset({location.transfer_syntax_uid}))
    return await _one(call, location)


def instance_url(base: str, location: Location) -> str:
    """Return the URL of an instance."""
    return f"{base}/studies/{location.study_uid}/series/{location.series_uid}/instances/{location.sop_uid}"


def not_modified(call: Call, etag: str) -> bool:
    """Tell whether the client has what `etag` names."""
    known = call.request.headers.get("If-None-Match", "")
    return bool(known) and (etag in known or known.strip() == "*")


async def _suited(call: Call, locations: Sequence[Location]) -> Sequence[Location]:
    """Return `locations`, with the forms that the client takes instead of originals that it does not take."""
    ranges = call.ranges()
    return await call.services.retrieve.suited(locations, lambda uid: any(each.takes_syntax(uid) for each in ranges))


async def _objects(call: Call, locations: Sequence[Location]) -> web.StreamResponse:
    stored = frozenset(location.transfer_syntax_uid for location in locations)
    single = bool(call.params.get("instance"))
    form = choose_objects(call.ranges(), stored, single=single)
    if form is None:
        raise _not_acceptable(stored)
    if not form.multipart:
        return await _one(call, locations[0])
    writer = MultipartWriter(DICOM)
    heads = [writer.part_head(f"{DICOM}; transfer-syntax={each.transfer_syntax_uid}") for each in locations]
    length = sum(map(len, heads)) + sum(each.size for each in locations) + len(writer.closing)
    return await call.stream(_multipart(call, locations, heads, writer.closing), writer.content_type, length)


async def _one(call: Call, location: Location) -> web.StreamResponse:
    content_type = f"{DICOM}; transfer-syntax={location.transfer_syntax_uid}"
    headers = {"Content-Disposition": f'attachment; filename="{_file_name(location)}"'}
    return await call.stream(call.services.retrieve.chunks(location), content_type, location.size, headers)


async def _multipart(
    call: Call, locations: Sequence[Location], heads: Sequence[bytes], closing: bytes
) -> AsyncIterator[bytes]:
    for location, head in zip(locations, heads, strict=True):
        pending = head
        async for piece in call.services.retrieve.chunks(location):
            if len(piece) < 64 * 1024:
                yield pending + piece
            else:
                yield pending
                yield piece
            pending = b""
    yield closing


def _file_name(location: Location) -> str:
    return "".join(c for c in location.sop_uid if c.isascii() and (c.isalnum() or c in ".-"))[:64] + ".dcm"


def _not_acceptable(stored: frozenset[str]) -> HttpProblem:
    return HttpProblem(
        406,
        "nothing is transcoded, and what is stored is not what may be sent",
        f"stored: {', '.join(sorted(stored))}; accept 'multipart/related; type=\"{DICOM}\"; transfer-syntax=*'",
    )
