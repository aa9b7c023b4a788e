"""Deflated data sets that become a thousand times as long when they are inflated."""

from __future__ import annotations

import struct
import zlib

from pydicom.dataset import Dataset

from tests.corpus import data_set_of, make, part10

MIB = 1024 * 1024


def _flushed(data: bytes) -> bytes:
    """Return `data` deflated so that any number of such pieces may follow one another."""
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush(zlib.Z_FULL_FLUSH)


def zeros(mib: int) -> bytes:
    """Return so many MiB of zeros, deflated: about 1 KB each. The stream goes on behind them."""
    return _flushed(bytes(MIB)) * mib


def end() -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.flush()


def pixels(mib: int, ds: Dataset | None = None) -> bytes:
    """Return a proper object whose pixel data are `mib` MiB of zeros."""
    data = data_set_of(part10(ds or make()))
    at = data.rindex(b"\xe0\x7f\x10\x00OW")
    head = data[:at] + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, min(mib * MIB, 0xFFFFFFFE))
    return _flushed(head) + zeros(mib) + end()


def header(mib: int) -> bytes:
    """Return an object whose identity comes behind a private element of `mib` MiB of zeros."""
    first = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, min(mib * MIB, 0xFFFFFFFE))
    return _flushed(first) + zeros(mib) + _flushed(data_set_of(part10(make()))) + end()
