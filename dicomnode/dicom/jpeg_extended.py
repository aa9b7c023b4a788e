"""JPEG Extended with 12 bits a sample, decoded with GDCM, which pydicom does not ask for it (PS3.5 A.4.1)."""

from __future__ import annotations

import importlib
from typing import Any, Final

from pydicom.uid import UID, JPEGExtended12Bit

DECODER_DEPENDENCIES: Final = {JPEGExtended12Bit: ("gdcm>=3.0.10",)}
_START_OF_FRAME: Final = frozenset({0xC0, 0xC1, 0xC2})


def is_available(uid: UID) -> bool:
    """Tell whether it can be decoded (what pydicom asks of a plugin)."""
    try:
        importlib.import_module("gdcm")
    except ImportError:
        return False
    return uid in DECODER_DEPENDENCIES


def decode_frame(frame: bytes, runner: Any) -> bytes:
    """Return the decoded frame, 16 bits a sample; `runner` is pydicom's, with the attributes of the image."""
    precision = _precision(frame)
    if precision != 12 or runner.samples_per_pixel != 1:
        raise ValueError("this decodes one sample of 12 bits a pixel")
    gdcm = importlib.import_module("gdcm")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, precision, precision - 1, runner.pixel_representation))
    runner.set_option("bits_allocated", 16)
    # GDCM's wrapper returns bytes as a str.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))


def _precision(frame: bytes) -> int:
    """Return the bits a sample that the frame header says (ITU-T T.81 B.2.2), 0 where there is none."""
    at = 2
    while at + 9 < len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _START_OF_FRAME:
            return frame[at + 4]
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return 0
