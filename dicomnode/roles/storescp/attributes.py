"""The data sets of requests that are no questions: what is performed, what is to be committed to."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from dicomnode.dicom.identifier import read_identifier
from dicomnode.dimse.responder import Request

MOST_BYTES: Final = 32 * 1024 * 1024  # 100,000 references are 14 MB; `limits.held_in_memory` is usually less
_READ_HERE_BYTES = 32 * 1024  # a longer one is read in a thread


async def attributes_of(request: Request) -> dict[str, dict[str, Any]]:
    """Return the data set of a request as a DICOM JSON object, empty where it has none. Raises: BadRequest."""
    if not request.data:
        return {}
    if len(request.data) > _READ_HERE_BYTES:
        return await asyncio.to_thread(read_identifier, request.data, request.transfer_syntax_uid, MOST_BYTES)
    return read_identifier(request.data, request.transfer_syntax_uid, MOST_BYTES)
