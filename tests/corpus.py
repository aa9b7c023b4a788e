"""Where the tests find real DICOM objects, and small ones of their own making."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

_BESIDE = Path(__file__).parent.parent.parent / "shared" / "data"
CORPUS = Path(os.environ.get("DICOMNODE_CORPUS") or _BESIDE)
WHEEL = Path(pydicom.data.__file__).parent / "test_files"
_NO_OBJECTS = {".md", ".json", ".png", ".zst", ".txt", ".gz", ".zip", ".py", ".bin"}


def corpus_files(below: str = "") -> list[Path]:
    """Return the real objects beside the project, none where there are none."""
    folder = CORPUS / below
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in _NO_OBJECTS and p.name != "DICOMDIR")


def wheel_files() -> list[Path]:
    """Return the objects that pydicom brings along."""
    return sorted(p for p in WHEEL.rglob("*.dcm") if p.is_file())


needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(), reason=f"real objects were not tested: there is no {CORPUS} (set DICOMNODE_CORPUS)"
)


def identified(path: Path) -> Dataset | None:
    """Return the data set of `path` if pydicom can read it and it has what identifies an instance."""
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        uids = [ds.get(k) for k in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]
    except Exception:  # noqa: BLE001 -- whatever pydicom cannot read is none
        return None
    return ds if all(uids) else None


def make(**attributes: Any) -> Dataset:
    """Return a small CT image; `attributes` by keyword replace or add."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "P1", "19700102", "F"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260102", "101112", "A1", "S1"
    ds.ReferringPhysicianName, ds.StudyDescription = "House^Gregory", "Head CT"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 1, 1
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 16, 12, 11
    ds.PixelRepresentation, ds.SamplesPerPixel, ds.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    ds.PixelData = bytes(range(128))
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def part10(ds: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """Return `ds` as a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", generate_uid())
    file = BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def data_set_of(file: bytes) -> bytes:
    """Return what follows the file meta information, found with pydicom."""
    stream = BytesIO(file)
    pydicom.filereader.read_preamble(stream, force=True)
    pydicom.filereader._read_file_meta_info(stream)
    return stream.read()
