"""Bodies of requests that are small enough to be had whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from dicomnode.errors import BadRequest
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.problem import HttpProblem

JSON_TYPES = ("application/dicom+json", "application/json")


async def read_json(call: Call, most: int) -> object:
    """Return the JSON value of up to `most` bytes that a request brings. Raises: HttpProblem 408, 413, 415; BadRequest.

    It must be labelled as JSON: what any web page may send without being asked (a form, plain text) is not taken.
    """
    _check_type(call, JSON_TYPES)
    try:
        return msgspec.json.decode(await _read(call, most))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the body is no JSON in UTF-8") from None


def _check_type(call: Call, allowed: Sequence[str]) -> None:
    told = call.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if told not in allowed:
        raise HttpProblem(415, "the body must be JSON", f"Content-Type: {allowed[0]}", {"Accept": ", ".join(allowed)})


async def _read(call: Call, most: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(call.table.limits.idle_s):
            async for piece in call.request.content.iter_any():
                body += piece
                if len(body) > most:
                    raise HttpProblem(413, f"the body is longer than {most} bytes")
    except TimeoutError:
        raise HttpProblem(408, "the body did not come in time", headers={"Connection": "close"}) from None
    return bytes(body)
