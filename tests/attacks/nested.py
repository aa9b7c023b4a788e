"""Sequences within sequences, made without recursion."""

from __future__ import annotations

import struct

UNDEFINED = 0xFFFFFFFF


def nested(
    depth: int, *, tag: int = 0x00081140, implicit: bool = False, undefined: bool = False, big: bool = False
) -> bytes:
    """Return one element: a sequence of one item, which holds a sequence of one item, `depth` times."""
    order = ">" if big else "<"
    group, element = tag >> 16, tag & 0xFFFF

    def opening(value: int, item: int) -> bytes:
        if implicit:
            head = struct.pack(order + "HHL", group, element, value)
        else:
            head = struct.pack(order + "HH2sHL", group, element, b"SQ", 0, value)
        return head + struct.pack(order + "HHL", 0xFFFE, 0xE000, item)

    if undefined:
        end = struct.pack(order + "HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        return opening(UNDEFINED, UNDEFINED) * depth + end * depth
    level = 16 if implicit else 20
    return b"".join(opening((depth - i - 1) * level + 8, (depth - i - 1) * level) for i in range(depth))


def with_element(data_set: bytes, element: bytes, *, implicit: bool = False) -> bytes:
    """Return a little endian data set with `element` put where its tag belongs on the top level."""
    new, at = _tag(element), 0
    while at < len(data_set) and _tag(data_set[at : at + 4]) < new:
        at = _after(data_set, at, implicit=implicit)
    return data_set[:at] + element + data_set[at:]


def _tag(element: bytes) -> int:
    group, number = struct.unpack("<HH", element[:4])
    return int(group) << 16 | int(number)


def _after(data_set: bytes, at: int, *, implicit: bool) -> int:
    if not implicit and data_set[at + 4 : at + 6] not in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OF"):
        return at + 8 + int(struct.unpack_from("<H", data_set, at + 6)[0])
    head = 8 if implicit else 12
    return at + head + int(struct.unpack_from("<L", data_set, at + head - 4)[0])
