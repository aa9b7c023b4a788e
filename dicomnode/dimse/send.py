"""Messages cut into P-DATA-TF PDUs that the peer can take (PS3.8 9.3.5, annex D.1). No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.dimse import pdu

ANY_MAX_PDU = 1024 * 1024  # what we send to a peer that takes any length
_SMALLEST = 8  # a PDV head and two bytes of data: a peer that says less cannot be served


def longest_fragment(max_pdu: int) -> int:
    """Return how many bytes of a message fit into one P-DATA-TF for a peer that takes `max_pdu` (0: any)."""
    if max_pdu == 0:
        max_pdu = ANY_MAX_PDU
    # Even, as every fragment but the last should be (PS3.8 annex E.1).
    return (max(min(max_pdu, ANY_MAX_PDU), _SMALLEST) - 6) & ~1


def command_parts(context_id: int, command_set: bytes, longest: int) -> list[bytes]:
    """Return the PDUs of a command set."""
    if len(command_set) <= longest:
        head = pdu.p_data_head(context_id, pdu.COMMAND_FRAGMENT | pdu.LAST_FRAGMENT, len(command_set))
        return [head + command_set]
    parts: list[bytes] = []
    for start in range(0, len(command_set), longest):
        piece = command_set[start : start + longest]
        last = pdu.LAST_FRAGMENT if start + longest >= len(command_set) else 0
        parts.append(pdu.p_data_head(context_id, pdu.COMMAND_FRAGMENT | last, len(piece)) + piece)
    return parts


def data_set_parts(
    context_id: int, data: bytes | memoryview, longest: int, *, last: bool
) -> Iterator[bytes | memoryview]:
    """Yield the PDUs of `data`, heads and views in turn without a copy; the data set ends with it if it is `last`.

    An end of odd length is padded with a zero, because fragments are even (PS3.8 annex E.1) and dcmtk aborts otherwise;
    what is not `last` has to be even (see `paired`).
    """
    view = memoryview(data)
    size = len(view)
    if not size:
        if last:
            yield pdu.p_data_head(context_id, pdu.LAST_FRAGMENT, 0)
        return
    end = (size - 1) // longest * longest
    if end:
        head = pdu.p_data_head(context_id, 0, longest)
        for start in range(0, end, longest):
            yield head
            yield view[start : start + longest]
    padding = size % 2 if last else 0
    yield pdu.p_data_head(context_id, pdu.LAST_FRAGMENT if last else 0, size - end + padding)
    yield view[end:]
    if padding:
        yield b"\0"


def paired(data: bytes | memoryview) -> tuple[memoryview, bytes]:
    """Return as much of `data` as is of even length, and the byte that is left."""
    view = memoryview(data)
    even = len(view) & ~1
    return view[:even], bytes(view[even:])
