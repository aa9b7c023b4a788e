"""Multipart/related bodies, read as they come and written with their length known (RFC 2046 5.1, RFC 2387).

Sans-I/O: bytes in, events out. Bodies are never copied: `PartData` views the bytes that were fed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping

import msgspec

from dicomnode.errors import BadRequest

_PREAMBLE = 64 * 1024
_HEADER_LINES = 64
_PADDING = 256


class PartStarted(msgspec.Struct, frozen=True):
    """A part begins; header names are in lower case."""

    headers: Mapping[str, str]


class PartData(msgspec.Struct, frozen=True):
    """Some bytes of the part's body, valid as long as the bytes that were fed."""

    data: memoryview


class PartEnded(msgspec.Struct, frozen=True):
    """The part is complete."""


class Finished(msgspec.Struct, frozen=True):
    """The closing boundary has come; whatever follows it is passed over."""


Event = PartStarted | PartData | PartEnded | Finished
_Step = Generator[Event, None, int]
_State = Callable[[bytes, int], _Step]
_PADDED = re.compile(rb"[ \t]{0,%d}\r\n" % _PADDING)


class MultipartParser:
    """Turn the bytes of one multipart body, in any pieces, into events.

    `most_parts` and `most_headers` (bytes of one part's header block) are caps. Raises: BadRequest.
    """

    def __init__(self, boundary: bytes, *, most_parts: int = 100_000, most_headers: int = 16 * 1024) -> None:
        if not 0 < len(boundary) <= 256 or b"\r" in boundary or b"\n" in boundary:
            raise BadRequest("multipart: the boundary must have 1 to 256 characters and no line end")
        self._delimiter = b"\r\n--" + boundary
        self._most_parts = most_parts
        self._most_headers = most_headers
        self._state: _State = self._body
        # Bytes of earlier pieces that are not decided yet; the first `_borrowed` of them are no part of the body.
        # A boundary may stand at the very beginning of a body, so the line end before it is borrowed.
        self._held = b"\r\n"
        self._borrowed = 2
        self._parts = 0
        self._preamble = 0
        self._finished = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what `data` completes; consume all before the next call."""
        position = 0
        while position < len(data) and not self._finished:
            position = yield from self._state(data, position)

    def close(self) -> None:
        """Tell that no more bytes will come. Raises: BadRequest where the closing boundary is missing."""
        if not self._finished:
            raise BadRequest("multipart: cut short, the closing boundary is missing")

    def _body(self, data: bytes, position: int) -> _Step:
        """Pass on the body (or the preamble) up to the next delimiter; hold what may be the start of one."""
        if self._held:
            return (yield from self._joint(data, position))
        delimiter = self._delimiter
        found = data.find(delimiter, position)
        if found >= 0:
            yield from self._pass_on(memoryview(data)[position:found])
            self._state = self._after_delimiter
            return found + len(delimiter)
        end = self._possible_start(data, position)
        yield from self._pass_on(memoryview(data)[position:end])
        self._held = data[end:]
        return len(data)

    def _joint(self, data: bytes, position: int) -> _Step:
        """Go on with a delimiter of which the start is held, until it is one or is none."""
        held, delimiter = self._held, self._delimiter
        need = len(delimiter) - len(held)
        more = data[position : position + need]
        if not delimiter.startswith(held + more):
            # Only the first byte of a delimiter is CR, so no other delimiter begins within what was held.
            self._held = b""
            yield from self._pass_on(memoryview(held)[self._borrowed :])
            self._borrowed = 0
            return position
        self._held = held + more
        if len(more) == need:
            self._held = b""
            self._state = self._after_delimiter
        return position + len(more)

    def _possible_start(self, data: bytes, position: int) -> int:
        """Return where in `data` a delimiter may begin that ends in later bytes; its length where none can."""
        start = max(position, len(data) - len(self._delimiter) + 1)
        start = data.find(b"\r", start)
        while start >= 0 and not self._delimiter.startswith(data[start:]):
            start = data.find(b"\r", start + 1)
        return start if start >= 0 else len(data)

    def _pass_on(self, view: memoryview) -> Iterator[Event]:
        if self._parts:
            if view:
                yield PartData(view)
            return
        self._preamble += len(view)
        if self._preamble > _PREAMBLE:
            raise BadRequest("multipart: the boundary that Content-Type names does not begin the body")

    def _after_delimiter(self, data: bytes, position: int) -> _Step:
        """Read the rest of the boundary's line: it begins a part, ends the body, or was no boundary after all."""
        held = self._held
        line = held + data[position : position + _PADDING + 2]
        if line == b"-" or (not line.strip(b" \t\r") and b"\n" not in line and len(line) <= _PADDING + 1):
            self._held = line
            return len(data)
        self._held = b""
        padding = _PADDED.match(line)
        if padding is None and not line.startswith(b"--"):
            self._state = self._body
            # A CR that came last may begin the true delimiter.
            kept = len(held.removesuffix(b"\r"))
            yield from self._pass_on(memoryview(self._delimiter + held[:kept])[self._borrowed :])
            self._borrowed = 0
            self._held = held[kept:]
            return position
        if self._parts:
            yield PartEnded()
        if padding is None:
            self._finished = True
            yield Finished()
            return len(data)
        # The line end before a header block is held with it, so that an empty block ends like any other.
        self._held = b"\r\n"
        self._state = self._headers
        return position + padding.end() - len(held)

    def _headers(self, data: bytes, position: int) -> _Step:
        held = self._held
        block = held + data[position : position + self._most_headers + 4 - len(held)]
        end = block.find(b"\r\n\r\n")
        if end < 0:
            if len(block) >= self._most_headers + 4:
                raise BadRequest(f"multipart: the headers of a part are longer than {self._most_headers} bytes")
            self._held = block
            return len(data)
        self._parts += 1
        if self._parts > self._most_parts:
            raise BadRequest(f"multipart: more than {self._most_parts} parts")
        self._state = self._body
        self._held = b"\r\n"
        self._borrowed = 2
        yield PartStarted(_parse_headers(block[2:end]))
        return position + end + 4 - len(held)


def _parse_headers(block: bytes) -> dict[str, str]:
    lines = re.sub(rb"\r\n[ \t]+", b" ", block).split(b"\r\n") if block else []
    if len(lines) > _HEADER_LINES:
        raise BadRequest(f"multipart: a part has more than {_HEADER_LINES} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadRequest("multipart: a header line of a part has no colon")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


class MultipartWriter:
    """The framing of a multipart/related reply whose length is known before its first byte is sent."""

    def __init__(self, root_type: str) -> None:
        # The boundary is 128 random bits, so that no body holds it.
        self.boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{root_type}"; boundary={self.boundary}'
        self.closing = f"\r\n--{self.boundary}--\r\n".encode()
        self._parts = 0

    def part_head(self, content_type: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Return what goes before the next part's body, with the line end of the part before it."""
        more = "".join(f"\r\n{name}: {value}" for name, value in (headers or {}).items())
        start = "\r\n" if self._parts else ""
        self._parts += 1
        return f"{start}--{self.boundary}\r\nContent-Type: {content_type}{more}\r\n\r\n".encode("latin-1")
