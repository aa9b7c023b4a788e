"""A data set as DICOM JSON (PS3.18 F.2). What pydicom makes of a data set, this makes of it, from the bytes."""

from __future__ import annotations

from collections.abc import Callable

from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.inflate import heads
from dicomnode.dicom.json_writer import Memo, Writer
from dicomnode.dicom.scan import BIG, LITTLE, PIXEL_DATA, CutShort, Walk, looks_implicit
from dicomnode.dicom.skim import Skim
from dicomnode.errors import BadInstance

Buffer = bytes | bytearray | memoryview

_MEMO = Memo()


def to_dicom_json(
    data_set: Buffer,
    transfer_syntax_uid: str,
    bulk_uri: Callable[[str], str] | None,
    bulk_threshold: int = 1024,
    *,
    complete: bool = True,
    memo: Memo | None = None,
) -> bytes | None:
    """Return the data set as one DICOM JSON object in UTF-8, without group 0002; None when it needs more bytes.

    `bulk_uri` is given the path of a value, such as "7FE00010" or "00081140/1/00081150", and returns its URI; it is
    asked for pixel data always, and for other binary values whose Base64 would be longer than `bulk_threshold` bytes.
    Without it those are inline and the pixel data is left out. Unless `complete`, `data_set` is a head that ends
    anywhere behind the header of the pixel data.

    Raises:
        BadInstance: it is no data set, cut short, or nested deeper than 64.
    Source: PS3.18 F.2.
    """
    syntax = transfer_syntax.of(transfer_syntax_uid)
    kept = _MEMO if memo is None else memo
    problem = CutShort()
    for head, whole in heads(data_set) if syntax.deflated else ((bytes(data_set), complete),):
        walk = Walk(head, BIG if syntax.big_endian else LITTLE, to_pixels=not whole)
        writer = Writer(head, walk, big_endian=syntax.big_endian, memo=kept)
        if bulk_uri is not None:
            writer.refer(bulk_uri, bulk_threshold)
        try:
            text = None
            implicit = looks_implicit(head, 0, len(head), syntax.implicit)
            if not implicit:
                text = Skim(head, walk, writer, kept, big_endian=syntax.big_endian).text(to_pixels=not whole)
            if text is None:
                text = _ordered(head, walk, writer, implicit, to_pixels=not whole)
            return text.encode("utf-8", "replace")
        except CutShort as short:
            problem = short
    if complete:
        raise BadInstance(str(problem))
    return None


def _ordered(head: bytes, walk: Walk, writer: Writer, implicit: bool, *, to_pixels: bool) -> str:
    """Return the data set as JSON where no short cut will do: its elements are all found before any is written."""
    elements, _ = walk.data_set(0, len(head), implicit, 0)
    if to_pixels and not (elements and elements[-1][0] in PIXEL_DATA):
        raise CutShort
    return writer.data_set(elements, implicit=implicit)
