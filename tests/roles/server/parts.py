"""Multipart as clients write and read it, apart from our own code: the standard library's."""

from __future__ import annotations

from collections.abc import Mapping
from email.parser import BytesParser

DICOM_TYPE = 'multipart/related; type="application/dicom"; boundary=XX'


def body(*files: bytes, content_type: str = "application/dicom", boundary: str = "XX") -> bytes:
    """Return `files` as the parts of one body."""
    head = f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{boundary}--\r\n".encode()


def parse(headers: Mapping[str, str], content: bytes) -> list[tuple[str, bytes]]:
    """Return the Content-Type and the bytes of each part."""
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + content)
    assert message.is_multipart()
    boundary = str(message.get_param("boundary")).encode()
    # The library mends line ends within parts, so their bytes are cut out by hand.
    raw = content.split(b"--" + boundary)[1:-1]
    return [
        (str(part["Content-Type"]), piece.partition(b"\r\n\r\n")[2][:-2])
        for part, piece in zip(message.get_payload(), raw, strict=True)
    ]
