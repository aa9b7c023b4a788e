"""Targets of the byte grammar: data sets, files and bodies that a stranger sends."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import chain

from dicomnode.dicom.charset import of as charset_of
from dicomnode.dicom.dicom_json import to_dicom_json
from dicomnode.dicom.frames import read_pixel_head
from dicomnode.dicom.header import read_header
from dicomnode.dicom.identifier import read_identifier, write_identifier
from dicomnode.dicom.json_writer import Memo
from dicomnode.dicom.multipart import Finished, MultipartParser, PartData, PartEnded, PartStarted
from dicomnode.dicom.part10 import read_file_meta, write_file_meta
from dicomnode.dicom.residual import parse_path, parse_residual
from dicomnode.dicom.transfer_syntax import of as syntax_of
from dicomnode.dicom.whole import Wanted, ends_whole
from dicomnode.errors import BadInstance, BadRequest, NotFound
from dicomnode.model.instance import Header

SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
    "1.2.3.4",
)


def _head(data: bytes, syntax: str, *, complete: bool) -> Header | str | None:
    try:
        return read_header(data, syntax, complete=complete)
    except BadInstance as problem:
        return str(problem)


def header(data: bytes) -> None:
    """A header is read or refused, and once more with what was learnt from the first time the same comes of it."""
    if not data:
        return
    syntax, complete, data = SYNTAXES[data[0] & 7], data[0] < 128, data[1:]
    first = _head(data, syntax, complete=complete)
    assert first is not None or not complete
    for _ in range(2):
        assert _head(memoryview(data), syntax, complete=complete) == first  # type: ignore[arg-type]
    if isinstance(first, Header):
        for text in (first.fragments.patient, first.fragments.study, first.fragments.series, first.fragments.instance):
            assert isinstance(json.loads(text), dict)
        assert first.sop_instance_uid


_MEMO = Memo()


def metadata(data: bytes) -> None:
    """A data set becomes JSON or is refused, with what was learnt from others or without."""
    if not data:
        return
    syntax, complete, data = SYNTAXES[data[0] & 7], data[0] < 128, data[1:]
    told = []
    for memo in (Memo(), _MEMO, _MEMO):
        try:
            told.append(to_dicom_json(data, syntax, lambda path: path, complete=complete, memo=memo))
        except BadInstance as problem:
            told.append(str(problem).encode())
    assert told[0] == told[1] == told[2]
    if told[0] is not None and told[0][:1] == b"{":
        json.loads(told[0])


def pixels(data: bytes) -> None:
    """Where pixels lie is told or refused, and whether a file is whole is told, from headers alone."""
    if not data:
        return
    syntax, complete, data = syntax_of(SYNTAXES[data[0] & 7]), data[0] < 128, data[1:]
    with suppress(BadInstance, NotFound):
        read_pixel_head(data, syntax, complete)
    if syntax.deflated:
        return
    walk = ends_whole(syntax, 0, len(data))
    at, last = next(walk, -1), -1
    while at >= 0:
        assert last < at, "it must come forward"
        last, at = at, _sent(walk, data[at : at + 12])


def _sent(walk: Wanted, seen: bytes) -> int:
    try:
        return walk.send(seen)
    except StopIteration:
        return -1


def file(data: bytes) -> None:
    """What stands before a data set is read, wants more, or is refused; and can be written again."""
    try:
        found = read_file_meta(data, complete=True)
    except BadInstance:
        return
    assert found is not None
    assert 0 <= found.data_set_offset <= len(data)
    try:
        written = write_file_meta(
            found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid, found.source_aet
        )
    except BadInstance:
        return
    again = read_file_meta(written, complete=True)
    assert again is not None
    assert again.data_set_offset == len(written)
    # A preamble that looks like an element is taken for one while "DICM" has not come.
    for end in range(max(132, len(data) // 2), len(data), 64):
        try:
            head = read_file_meta(data[:end], complete=False)
        except BadInstance:
            continue
        assert head is None or head.transfer_syntax_uid == found.transfer_syntax_uid or head.guessed


def _parts(data: bytes, size: int) -> tuple[list[object], str]:
    parser = MultipartParser(b"x", most_parts=50, most_headers=256)
    told: list[object] = []
    try:
        for at in range(0, len(data), size):
            for event in parser.feed(data[at : at + size]):
                if isinstance(event, PartData) and told and isinstance(told[-1], bytes):
                    told[-1] += bytes(event.data)
                else:
                    told.append(bytes(event.data) if isinstance(event, PartData) else event)
        parser.close()
    except BadRequest as problem:
        return [], str(problem)
    return [one for one in told if one != b""], ""


def multipart(data: bytes) -> None:
    """However a body is cut, the same parts come of it."""
    if not data:
        return
    size, data = data[0] % 32 + 1, data[1:]
    events, problem = _parts(data, max(len(data), 1))
    assert (events, problem) == _parts(data, size)
    kinds = [type(event) for event in events if not isinstance(event, bytes)]
    if not problem:
        assert kinds[-1] is Finished
        assert kinds[:-1] == list(chain.from_iterable([(PartStarted, PartEnded)] * (len(kinds) // 2)))


def question(data: bytes) -> None:
    """A key of a query and its value are understood or refused, and tried on an object."""
    path, _, text = data.decode("utf-8", "replace").partition("=")
    named = parse_path(path)
    if named is None:
        return
    try:
        residual = parse_residual(named, text, fuzzy=len(data) % 2 == 0)
    except BadRequest:
        return
    if residual is not None:
        value: object = {"Alphabetic": text}
        for tag in reversed(named.path):
            value = {tag: {"vr": "SQ", "Value": [value, None, 1, text]}}
        residual.accepts(value)  # type: ignore[arg-type]


def charset(data: bytes) -> None:
    """Any bytes under any character set become text."""
    term, _, value = data.partition(b"\0")
    assert isinstance(charset_of(term).decode(value), str)


def identifier(data: bytes) -> None:
    """What a peer asks for is read or refused; what was read can be written and is the same when it comes back."""
    if not data:
        return
    syntax, data = SYNTAXES[data[0] & 7], data[1:]
    try:
        asked = read_identifier(data, syntax)
        written = write_identifier(asked, syntax)
    except BadRequest:
        return
    again = read_identifier(written, syntax)
    assert read_identifier(write_identifier(again, syntax), syntax) == again
