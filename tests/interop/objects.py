"""Real objects to send: one for each transfer syntax there is, each time with identities of its own."""

from __future__ import annotations

import zlib
from functools import cache
from io import BytesIO
from pathlib import Path

import msgspec
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from tests.corpus import CORPUS, corpus_files, data_set_of, identified, make, part10

# One PDU of most programs is 16 KB: a smaller object would say nothing of fragments.
_SMALLEST = 20_000
_UNIDENTIFIED = {  # the only samples of their transfer syntax have no study and series
    "1.2.840.10008.1.2.4.201": "odd/HTJ2KLossless_08_RGB.dcm",
    "1.2.840.10008.1.2.4.203": "odd/HTJ2K_08_RGB.dcm",
}


class Sample(msgspec.Struct, frozen=True):
    """An object in a file of its own, and what identifies it."""

    path: Path
    transfer_syntax: str
    sop_class: str
    study: str
    series: str
    sop: str

    @property
    def data_set(self) -> bytes:
        return data_set_of(self.path.read_bytes())

    @property
    def dataset(self) -> Dataset:
        return pydicom.dcmread(self.path)


@cache
def by_transfer_syntax() -> dict[str, Path]:
    """Return a real object for each transfer syntax of the corpus, the smallest of even length over one PDU, if any."""
    found: dict[str, Path] = {uid: CORPUS / name for uid, name in _UNIDENTIFIED.items() if (CORPUS / name).is_file()}
    for path in sorted(corpus_files(), key=_suits):
        ds = identified(path)
        if ds is not None and "TransferSyntaxUID" in ds.file_meta:
            found.setdefault(str(ds.file_meta.TransferSyntaxUID), path)
    return found


def _suits(path: Path) -> tuple[bool, bool, int]:
    """Return what to sort by: an object of odd length is malformed, and some programs hang up on it."""
    size = path.stat().st_size
    return size % 2 == 1, size < _SMALLEST, size


def syntaxes() -> list[str]:
    """Return the transfer syntaxes of which there is an object; without a corpus that which we can make."""
    return sorted(by_transfer_syntax()) or [str(ExplicitVRLittleEndian)]


def named(transfer_syntax: str) -> str:
    """Return a short name for a parameter's id."""
    return transfer_syntax.removeprefix("1.2.840.10008.1.2")


def sample(transfer_syntax: str, folder: Path) -> Sample:
    """Return an object in `transfer_syntax`, every byte as it came but for a SOP Instance UID that no other has.

    Without a corpus it is one of our own, which is not compressed.
    """
    source = by_transfer_syntax().get(transfer_syntax)
    if source is None:
        made = make(Rows=128, Columns=128, PixelData=bytes(range(256)) * 128)
        return kept(part10(made, UID(transfer_syntax)), folder)
    if transfer_syntax in _UNIDENTIFIED:
        return kept(_identified_now(source), folder)
    return kept(renamed(source.read_bytes()), folder)


def kept(file: bytes, folder: Path) -> Sample:
    """Write `file` and return it as a sample."""
    ds = pydicom.dcmread(BytesIO(file), stop_before_pixels=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    path.write_bytes(file)
    uids = (ds.SOPClassUID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    return Sample(path, str(ds.file_meta.TransferSyntaxUID), *map(str, uids))


def renamed(file: bytes) -> bytes:
    """Return `file` with another SOP Instance UID of the same length, and nothing else changed."""
    ds = pydicom.dcmread(BytesIO(file), stop_before_pixels=True)
    old = str(ds.SOPInstanceUID).encode()
    new = _fresh(len(old))
    if ds.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return file.replace(old, new)
    data_set = data_set_of(file)
    deflated = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    anew = deflated.compress(zlib.decompress(data_set, -zlib.MAX_WBITS).replace(old, new)) + deflated.flush()
    return file[: -len(data_set)].replace(old, new) + anew + b"\0" * (len(anew) % 2)


def _fresh(length: int) -> bytes:
    """Return a UID of `length` characters."""
    digits = str(pydicom.uid.generate_uid(prefix=None)).removeprefix("2.25.").lstrip("0")
    assert length > 16, "too short to be unlike the others"
    return b"2.25." + digits.ljust(64, "7")[: length - 5].encode()


def _identified_now(source: Path) -> bytes:
    ds = pydicom.dcmread(source)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, UID(pydicom.uid.generate_uid(prefix=None)))
    ds.PatientName, ds.PatientID, ds.StudyDate = "Htj2k^Picture", "HTJ2K", "20260101"
    return part10(ds, ds.file_meta.TransferSyntaxUID)
