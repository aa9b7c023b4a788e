"""The DICOM File Format: what stands before a data set in a file (PS3.10 7). Reading forgives, writing does not."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

import msgspec

from dicomnode import __version__
from dicomnode.dicom.transfer_syntax import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomnode.dicom.uid import MAX_UID_BYTES
from dicomnode.dicom.vr import LONG, SHORT
from dicomnode.errors import BadInstance

Buffer = bytes | bytearray | memoryview

IMPLEMENTATION_CLASS_UID: Final = "2.25.102224749705608594725990569955463893570"
IMPLEMENTATION_VERSION_NAME: Final = f"DICOMNODE_{__version__}"[:16]
MAX_META_BYTES: Final = 64 * 1024

_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from
_KEPT = {2: "sop_class", 3: "sop_instance", 0x10: "syntax", 0x12: "class_uid", 0x13: "version", 0x16: "aet"}


class FileMeta(msgspec.Struct, frozen=True):
    """What a file says of its data set, which starts at byte `data_set_offset`.

    `guessed` tells that the transfer syntax was read off the data set, because nothing named it. UIDs and names are
    as written, without padding, and empty where absent.
    """

    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    data_set_offset: int
    source_aet: str = ""
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    guessed: bool = False


class _NeedMore(Exception):
    """The buffer ends before the answer."""


def read_file_meta(buffer: Buffer, complete: bool) -> FileMeta | None:
    """Return the file meta information at the start of `buffer`; None when it needs more bytes and more may come.

    `complete` says that the buffer holds all there is. A missing preamble, missing meta information before a data set
    that starts with group 0008, a wrong group length and meta elements in implicit VR are forgiven.

    Raises:
        BadInstance: it is no DICOM file, or it is cut short, or its meta information is longer than 64 KiB.
    Source: PS3.10 7.1.
    """
    head = bytes(memoryview(buffer)[: MAX_META_BYTES + 256])
    try:
        start = _start(head)
        values, offset = _walk(head, start)
        return _file_meta(head, values, offset, complete=complete or len(head) > MAX_META_BYTES)
    except _NeedMore:
        if len(head) > MAX_META_BYTES:
            raise BadInstance(f"file meta information is longer than {MAX_META_BYTES} bytes") from None
        if not complete:
            return None
        problem = "cut short in the file meta information" if _is_marked(head) else _no_dicom(head)
        raise BadInstance(problem) from None


def _is_marked(head: bytes) -> bool:
    return head[128:132] == b"DICM" or head[:4] == b"DICM"


def _no_dicom(head: bytes) -> str:
    return "not DICOM: no bytes" if not head else "not DICOM: no 'DICM' at byte 128"


def _start(head: bytes) -> int:
    if head[128:132] == b"DICM":
        return 132
    if head[:4] == b"DICM":
        return 4
    if len(head) < 132 and len(head) < 8:
        raise _NeedMore
    if _is_plausible(head):
        # Also "DICM" may still come; but a preamble that looks like an element has not been seen in the field.
        return 0
    if len(head) < 132:
        raise _NeedMore
    raise BadInstance(_no_dicom(head))


def _is_plausible(head: bytes) -> bool:
    """Tell whether `head` may begin a bare data set: a first element of group 0002 or 0008 with a credible header."""
    group, element, vr, _ = _EXPLICIT(head)
    if group == 0x0800:
        return vr in SHORT or vr in LONG
    if group not in (0x0002, 0x0008):
        return False
    if vr in SHORT or vr in LONG:
        return True
    length: int = _IMPLICIT(head)[2]
    return element <= 0x0100 and length <= 256


def _walk(head: bytes, start: int) -> tuple[dict[str, str], int]:
    """Return the values of the elements of group 0002 that are kept, and where the group ends."""
    values: dict[str, str] = {}
    at, size = start, len(head)
    while True:
        if at == size and values:
            return values, at
        if at + 8 > size:
            raise _NeedMore
        group, element, value_at, length = _header(head, at)
        if group != 2:
            return values, at
        at = value_at + length
        if at - start > MAX_META_BYTES:
            raise BadInstance(f"file meta information is longer than {MAX_META_BYTES} bytes")
        if at > size:
            raise _NeedMore
        name = _KEPT.get(element)
        if name is not None:
            values[name] = head[value_at:at].decode("latin-1").strip("\0 ")


def _header(head: bytes, at: int) -> tuple[int, int, int, int]:
    """Return group, element, where the value starts, and its length, of the element at `at`."""
    group, element, vr, length = _EXPLICIT(head, at)
    if vr in SHORT:
        return group, element, at + 8, length
    if vr not in LONG or group != 2:
        return group, element, at + 8, _IMPLICIT(head, at)[2]
    if at + 12 > len(head):
        raise _NeedMore
    return group, element, at + 12, _LENGTH(head, at + 8)[0]


def _file_meta(head: bytes, values: dict[str, str], offset: int, *, complete: bool) -> FileMeta:
    if offset + 8 > len(head) and not complete:
        # The next element may still belong to the group, or start a command set.
        raise _NeedMore
    offset = _past_command_set(head, offset)
    syntax = values.get("syntax", "")
    return FileMeta(
        syntax or _guess(head, offset),
        values.get("sop_class", ""),
        values.get("sop_instance", ""),
        offset,
        values.get("aet", ""),
        values.get("class_uid", ""),
        values.get("version", ""),
        guessed=not syntax,
    )


def _past_command_set(head: bytes, offset: int) -> int:
    """Return where the data set starts if some program left its command set (PS3.7 6.3) before it."""
    while offset + 8 <= len(head):
        group, _, length = _IMPLICIT(head, offset)
        if group != 0:
            break
        offset += 8 + length
    if offset > len(head):
        raise _NeedMore
    return offset


def _guess(head: bytes, offset: int) -> str:
    """Return the transfer syntax that the first element of the data set seems to be written in."""
    if offset + 8 > len(head):
        return IMPLICIT_VR_LITTLE_ENDIAN
    group, _, vr, _ = _EXPLICIT(head, offset)
    if vr not in SHORT and vr not in LONG:
        return IMPLICIT_VR_LITTLE_ENDIAN
    # A group below 0100 in big endian looks like a multiple of 0100 in little endian.
    return EXPLICIT_VR_BIG_ENDIAN if group >= 0x0400 else EXPLICIT_VR_LITTLE_ENDIAN


def write_file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_aet: str = "") -> bytes:
    """Return preamble, prefix and file meta information for a data set that follows.

    Raises:
        BadInstance: a UID is longer than 1,024 bytes.
    Source: PS3.10 7.1.
    """
    before, after, length = _around(sop_class_uid, transfer_syntax_uid, source_aet)
    uid = sop_instance_uid.encode("latin-1", "replace")
    size = len(uid)
    if size > MAX_UID_BYTES:
        raise BadInstance("MediaStorageSOPInstanceUID is longer than 1024 bytes")
    if size & 1:
        uid += b"\0"
        size += 1
    return b"%b%b%b%b%b" % (_PREFIX, _GROUP_LENGTH(length + size), before, _SHORT_LENGTH(size) + uid, after)


_PREFIX = bytes(128) + b"DICM\x02\0\0\0UL\x04\0"
_GROUP_LENGTH = struct.Struct("<L").pack
_SHORT_LENGTH = struct.Struct("<H").pack


@lru_cache(maxsize=1024)
def _around(sop_class_uid: str, transfer_syntax_uid: str, source_aet: str) -> tuple[bytes, bytes, int]:
    """Return what stands before the length of (0002,0003), what after its value, and the length of both in bytes."""
    before = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01" + _element(0x0002, b"UI", sop_class_uid) + b"\x02\0\x03\0UI"
    after = (
        _element(0x0010, b"UI", transfer_syntax_uid)
        + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
    )
    if source_aet:
        after += _element(0x0016, b"AE", source_aet[:16])
    return before, after, len(before) + 2 + len(after)


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    if len(value) > MAX_UID_BYTES:
        raise BadInstance(f"(0002,{element:04X}) is longer than {MAX_UID_BYTES} bytes")
    if len(value) & 1:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
