"""Compressed pixel data decoded, frame after frame: pydicom and the codecs that are installed do it (PS3.5 8.2, A.4).

Only to be called where hostile data may use up memory and time, or crash: `services/transcode` gives it a process.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import IO, Any, Final

import msgspec

from dicomnode.dicom.transfer_syntax import of
from dicomnode.errors import BadInstance, NodeError

_PREFIX: Final = "1.2.840.10008.1.2."
_JPEG: Final = tuple(_PREFIX + last for last in ("4.50", "4.51", "4.57", "4.70"))
_EXTENDED: Final = _PREFIX + "4.51"
_RLE: Final = _PREFIX + "5"
DECODABLE: Final = frozenset(
    (*_JPEG, *(_PREFIX + last for last in ("4.80", "4.81", "4.90", "4.91", "4.201", "4.202", "4.203", "5")))
)
"""Every compressed transfer syntax that can be decoded once the codecs are installed."""

LOSSY_METHODS: Final = {
    _PREFIX + "4.50": "ISO_10918_1",
    _PREFIX + "4.51": "ISO_10918_1",
    _PREFIX + "4.81": "ISO_14495_1",
}
"""The transfer syntaxes in which nothing is without loss, and the names of their methods (PS3.3 C.7.6.1.1.5.1)."""

# What YBR is converted to RGB: only where the codec converted RGB to YBR. Elsewhere it is how the image was made.
_YBR_BY_CODEC: Final = frozenset((_PREFIX + "4.50", _PREFIX + "4.51"))
_PLUGIN = "dicomnode"
# Of several, those that know best what they decode: signs and precisions of their own in JPEG 2000 and JPEG-LS.
_FIRST = ("pylibjpeg", "pyjpegls")
_MOST_BYTES = 0xFFFFFFFE


class CodecMissing(NodeError):
    """The programs that decode this are not installed."""


class Image(msgspec.Struct, frozen=True):
    """The attributes of the Image Pixel module that say how frames are laid out (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    photometric_interpretation: str
    planar_configuration: int
    number_of_frames: int

    @property
    def frame_bytes(self) -> int:
        """The length of a decoded frame."""
        return self.rows * self.columns * self.samples_per_pixel * (self.bits_allocated // 8)

    @property
    def bytes(self) -> int:
        """The length of all frames."""
        return self.frame_bytes * self.number_of_frames

    def check(self) -> None:
        """Raise BadInstance where no pixel data can be like that, or where it would be too long for an element."""
        fits = (
            self.bits_allocated in (8, 16, 32)
            and 0 < self.bits_stored <= self.bits_allocated
            and self.samples_per_pixel in (1, 3)
            and self.number_of_frames > 0
        )
        if not fits or not self.frame_bytes:
            raise BadInstance("the attributes of the pixel data describe no image that can be decoded")
        if self.bytes > _MOST_BYTES:
            raise BadInstance("the pixel data would be longer than an element may be (4 GiB)")


class Frame(msgspec.Struct, frozen=True):
    """A decoded frame: color by pixel, little endian; and what its samples mean."""

    data: bytes
    photometric_interpretation: str


def frames(
    source: IO[bytes], transfer_syntax_uid: str, image: Image, offsets: tuple[bytes, bytes] | None = None
) -> Iterator[Frame]:
    """Yield the frames of the encapsulated value at the position of `source`, each decoded to `image.frame_bytes`.

    `offsets` are the values of Extended Offset Table and Extended Offset Table Lengths.

    Raises: CodecMissing; BadInstance, where what is encoded is not what the attributes say.
    """
    _quiet()
    decoder = _decoder(transfer_syntax_uid)
    image.check()
    options = _options(transfer_syntax_uid, image, offsets)
    sample = f"<{'i' if image.pixel_representation else 'u'}{image.bits_allocated // 8}"
    count = 0
    try:
        for array, told in _decoded(decoder, source, options):
            yield _frame(array.astype(sample, copy=False).tobytes(), str(told["photometric_interpretation"]), image)
            count += 1
            if count == image.number_of_frames:
                return
    except (BadInstance, MemoryError):
        raise
    except Exception as error:  # the codecs raise whatever they like about bytes that they do not like
        raise BadInstance("the pixel data cannot be decoded") from error
    raise BadInstance("there are fewer frames than the attributes say")


def _decoded(decoder: Any, source: IO[bytes], options: dict[str, Any]) -> Iterator[Any]:
    """Yield what the best codec makes of the frames; where it fails at the first, what any of the others does."""
    start = source.tell()
    first = next((name for name in _FIRST if name in decoder.available_plugins), "")
    frames = decoder.iter_array(source, decoding_plugin=first, **options)
    try:
        ahead = [next(frames)]
    except Exception:  # noqa: BLE001 -- whatever it raised, another may do better
        source.seek(start)
        frames, ahead = decoder.iter_array(source, **options), []
    yield from ahead
    yield from frames


def _frame(data: bytes, photometric_interpretation: str, image: Image) -> Frame:
    if len(data) != image.frame_bytes:
        raise BadInstance("a frame is not as large as the attributes say")
    return Frame(data, photometric_interpretation)


def _options(transfer_syntax_uid: str, image: Image, offsets: tuple[bytes, bytes] | None) -> dict[str, Any]:
    options: dict[str, Any] = msgspec.structs.asdict(image)
    options |= {
        "raw": False,
        "pixel_keyword": "PixelData",
        "as_rgb": transfer_syntax_uid in _YBR_BY_CODEC,
        "allow_excess_frames": True,
        # What RLE holds in bits that are not stored (old overlays) is kept.
        "correct_unused_bits": transfer_syntax_uid != _RLE,
    }
    if image.samples_per_pixel == 1:
        del options["planar_configuration"]
    if offsets is not None:
        options["extended_offsets"] = offsets
    return options


def _decoder(transfer_syntax_uid: str) -> Any:
    """Return pydicom's decoder. Raises: CodecMissing, BadInstance."""
    syntax = of(transfer_syntax_uid)
    if transfer_syntax_uid not in DECODABLE:
        raise BadInstance(f"{syntax.name} cannot be decoded")
    try:
        pixels = importlib.import_module("pydicom.pixels")
        importlib.import_module("numpy")
    except ImportError:
        raise CodecMissing(_hint(syntax.name)) from None
    decoder = pixels.get_decoder(transfer_syntax_uid)
    if transfer_syntax_uid == _EXTENDED and _PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(_PLUGIN, ("dicomnode.dicom.jpeg_extended", "decode_frame"))
    if not decoder.is_available:
        raise CodecMissing(_hint(syntax.name))
    return decoder


def _hint(name: str) -> str:
    return f"nothing is installed that decodes {name}: pip install 'dicomnode[codecs]'"


def _quiet() -> None:
    """Keep what pydicom has to say of a patient's object out of the log."""
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
