from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom.multipart import (
    Event,
    Finished,
    MultipartParser,
    MultipartWriter,
    PartData,
    PartEnded,
    PartStarted,
)
from dicomnode.errors import BadRequest

Part = tuple[dict[str, str], bytes]


def read(pieces: list[bytes], boundary: bytes = b"bound", *, most_parts: int = 100) -> tuple[list[Part], bool]:
    """Return the complete parts of a body that comes in `pieces`, and whether it was finished."""
    parser = MultipartParser(boundary, most_parts=most_parts)
    parts: list[Part] = []
    headers: dict[str, str] = {}
    body = b""
    finished = False
    for piece in pieces:
        for event in parser.feed(piece):
            assert not finished
            match event:
                case PartStarted(found):
                    headers, body = dict(found), b""
                case PartData(data):
                    assert data
                    body += data
                case PartEnded():
                    parts.append((headers, body))
                case Finished():
                    finished = True
    return parts, finished


def write(parts: list[tuple[str, bytes]]) -> tuple[bytes, bytes]:
    writer = MultipartWriter("application/dicom")
    body = b"".join(writer.part_head(kind) + data for kind, data in parts) + writer.closing
    return writer.boundary.encode(), body


def cut(body: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in at), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


# Bodies made of the bytes that delimiters are made of hit every branch of the joint.
near_boundary = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"bound", b"bou", b"\r\n--bound", b"\r\n--bounD", b" ", b"x"])
).map(b"".join)
places = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=4), places)
def test_what_is_written_is_read_whatever_the_pieces(bodies: list[bytes], at: list[int]) -> None:
    boundary, body = write([("application/dicom", data) for data in bodies])
    assert read(cut(body, at), boundary) == ([({"content-type": "application/dicom"}, d) for d in bodies], True)


@given(near_boundary, places)
def test_pieces_make_no_difference(middle: bytes, at: list[int]) -> None:
    body = b"--bound\r\nA: 1\r\n\r\n" + middle + b"\r\n--bound\r\n\r\nsecond\r\n--bound--"

    def told(pieces: list[bytes]) -> object:
        try:
            return read(pieces)
        except BadRequest as error:
            return str(error)

    assert told(cut(body, at)) == told([body]) == told([body[i : i + 1] for i in range(len(body))])


@given(st.binary(max_size=200), places)
def test_any_bytes_give_events_or_bad_request(body: bytes, at: list[int]) -> None:
    try:
        parts, finished = read(cut(b"--bound\r\n" + body, at))
    except BadRequest:
        return
    assert finished or isinstance(parts, list)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"--bound\r\n\r\none\r\n--bound--", [b"one"]),
        (b"\r\n--bound\r\n\r\none\r\n--bound--\r\n", [b"one"]),
        (b"a preamble\r\n--bound\r\n\r\none\r\n--bound--an epilogue\r\n--bound\r\n\r\n", [b"one"]),
        (b"--bound  \t\r\n\r\none\r\n--bound \r\n\r\ntwo\r\n--bound--", [b"one", b"two"]),
        (b"--bound\r\n\r\n\r\n--bound--", [b""]),
        (b"--bound\r\nA: b\r\n\r\n--bound--", [b""]),
        (b"--bound\r\n\r\n--boundless\r\n--bound--", [b"--boundless"]),
        (b"--bound\r\n\r\n\r\n--boundless\r\n--bound--", [b"\r\n--boundless"]),
        (b"--bound\r\n\r\none\n--bound\r\n--bound--", [b"one\n--bound"]),
    ],
)
def test_shapes_of_rfc_2046(body: bytes, parts: list[bytes]) -> None:
    found, finished = read([body])
    assert ([data for _, data in found], finished) == (parts, True)


def test_headers_are_folded_and_named_in_lower_case() -> None:
    parts, _ = read([b"--bound\r\nContent-TYPE: a/b;\r\n\tc=d\r\nX:y\r\nx: z\r\n\r\n\r\n--bound--"])
    assert parts[0][0] == {"content-type": "a/b; c=d", "x": "y"}


def test_a_missing_closing_boundary_is_told_and_keeps_what_is_complete() -> None:
    parser = MultipartParser(b"bound")
    events: list[Event] = list(parser.feed(b"--bound\r\n\r\none\r\n--bound\r\n\r\ntw"))
    assert [type(event) for event in events] == [PartStarted, PartData, PartEnded, PartStarted, PartData]
    with pytest.raises(BadRequest, match="cut short"):
        parser.close()


@pytest.mark.parametrize(
    ("pieces", "caps", "told"),
    [
        ([b"--bound\r\n" + b"a" * 20_000], {}, "headers of a part"),
        ([b"--bound\r\n", *[b"a" * 999] * 20], {}, "headers of a part"),
        ([b"--bound\r\n" + b"a:\r\n" * 100 + b"\r\n"], {}, "more than 64 headers"),
        ([b"--bound\r\nno colon\r\n\r\n"], {}, "no colon"),
        ([b"--bound\r\n\r\n\r\n" * 4], {"most_parts": 3}, "more than 3 parts"),
        ([b"x" * 70_000], {}, "does not begin the body"),
    ],
)
def test_caps(pieces: list[bytes], caps: dict[str, int], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        read(pieces, most_parts=caps.get("most_parts", 100))


@pytest.mark.parametrize("boundary", [b"", b"x" * 257, b"a\r\nb"])
def test_a_boundary_that_cannot_be_one(boundary: bytes) -> None:
    with pytest.raises(BadRequest):
        MultipartParser(boundary)


def test_bodies_are_viewed_not_copied() -> None:
    parser = MultipartParser(b"bound")
    list(parser.feed(b"--bound\r\n\r\nbegin"))
    piece = bytes(1_000_000)
    (event,) = parser.feed(piece)
    assert isinstance(event, PartData)
    assert event.data.obj is piece
    assert len(event.data) == len(piece)


def test_a_line_that_is_no_boundary_after_all_may_end_in_the_start_of_one() -> None:
    # Found by tests/fuzz.
    body = b"--bound\r\n\r\na\r\n--bound \r\r\n--bound--"
    whole = read([body])
    assert whole == ([({}, b"a\r\n--bound \r")], True)
    assert read([body[at : at + 1] for at in range(len(body))]) == whole
