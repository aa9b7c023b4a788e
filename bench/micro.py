"""Rates of the byte grammar on one core, beside pydicom's: `python -m bench.micro`. One JSON object a line."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dicom.dicom_json import to_dicom_json
from dicomnode.dicom.header import read_header
from dicomnode.dicom.json_writer import Memo
from dicomnode.dicom.part10 import read_file_meta, write_file_meta
from dicomnode.dicom.pick import pick
from dicomnode.dicom.scan import LITTLE, Walk

CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.8.498"
ELEMENTS = 256
INSTANCES = 2000
MARK = b"424242"


def ct(pixels: int) -> Dataset:
    """Return a CT image; what a scanner changes from slice to slice holds the mark 424242."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.InstanceCreationDate = ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240131"
    ds.StudyTime, ds.SeriesTime = "101112.123000", "101230.500000"
    ds.InstanceCreationTime = ds.AcquisitionTime = ds.ContentTime = "101314.424242"
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{ROOT}.424242.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{ROOT}.1", f"{ROOT}.1.2", f"{ROOT}.1.3"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "A1234567", "CT", "SIEMENS"
    ds.InstitutionName, ds.ReferringPhysicianName = "Example Hospital", "Doctor^Some"
    ds.StudyDescription, ds.SeriesDescription, ds.StationName = "Abdomen^Routine", "Abd 1.5 B30f", "CT01"
    ds.ManufacturerModelName, ds.PatientName, ds.PatientID = "Sensation 64", "Müller^Änne", "P0012345"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500101", "F", "074Y"
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP, ds.ProtocolName = "ABDOMEN", "1.5", "120", "AbdRoutine"
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.PatientPosition = "12345", ["syngo CT 2012B", "VB42B"], "HFS"
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", "2", "1", "424242"
    ds.ImagePositionPatient, ds.SliceLocation = ["-171.16", "-179.5", "-1.424242"], "-1.424242"
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = 512
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelSpacing, ds.RescaleIntercept, ds.RescaleSlope = ["0.7", "0.7"], "-1024", "1"
    ds.WindowCenter, ds.WindowWidth, ds.RescaleType = ["40", "-600"], ["400", "1200"], "HU"
    ds.RequestAttributesSequence = DicomSequence([_request()])
    ds.ReferencedStudySequence = DicomSequence([_reference()])
    _fill(ds)
    ds.add_new(0x00290001, "SH", "424242")
    ds.add_new(0x7FE00010, "OW", bytes(pixels))
    return ds


def _request() -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP1", "SPS1"
    item.ScheduledProcedureStepDescription = "CT abdomen"
    return item


def _reference() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", f"{ROOT}.7"
    return item


def _fill(ds: Dataset) -> None:
    """Add private elements until there are as many elements as a scanner writes."""
    groups = (0x0019, 0x0021, 0x0029, 0x0051)
    for group in groups:
        ds.add_new(group << 16 | 0x10, "LO", "BENCH 1.0")
    number = 0
    while len(ds) < ELEMENTS:
        tag = groups[number % 4] << 16 | 0x1000 + number // 4
        ds.add_new(
            tag, ("DS", "IS", "LO", "SH", "US")[number % 5], (f"{number}.5", "7", "some text", "x", 1)[number % 5]
        )
        number += 1


def encoded(ds: Dataset, syntax: str) -> bytes:
    """Return `ds` as a Part 10 file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def rate(work: Callable[[int], object], times: int) -> float:
    """Return how often a second `work` is done on instances that it has not seen before, in a series that it has."""
    for number in range(times // 4):
        work(100_000 + number)
    started = time.process_time()
    for number in range(times):
        work(200_000 + number)
    return times / (time.process_time() - started)


class Source:
    """One object, made into another instance of its series for each number, in the buffer that it is received in."""

    def __init__(self, file: bytes) -> None:
        meta = read_file_meta(file, complete=True)
        assert meta is not None
        self.syntax = meta.transfer_syntax_uid
        self.offset = meta.data_set_offset
        self.file = file
        self._buffer = bytearray(file[self.offset :])
        self._head = file[self.offset : self.offset + 10_000]
        at = self._head.find(MARK)
        self._marks = []
        while at >= 0:
            self._marks.append(at)
            at = self._head.find(MARK, at + 1)

    def __call__(self, number: int) -> memoryview:
        digits, buffer = b"%06d" % number, self._buffer
        for at in self._marks:
            buffer[at : at + 6] = digits
        return memoryview(buffer)


def cases(source: Source) -> dict[str, Callable[[int], object]]:
    """Return what is measured, by name; each works on the instance with the given number."""
    syntax, implicit, memo = source.syntax, source.syntax == ImplicitVRLittleEndian, Memo()

    def scan(number: int) -> object:
        head = bytes(source(number)[:16384])
        return Walk(head, LITTLE, to_pixels=True).data_set(0, len(head), implicit, 0)

    return {
        "the bench itself": source,
        "index": lambda n: pick(bytes(source(n)[:16384]), LITTLE, implicit=implicit),
        "scan": scan,
        "read_header": lambda n: read_header(source(n), syntax),
        "to_dicom_json": lambda n: to_dicom_json(source(n)[:16384], syntax, _uri, complete=False, memo=memo),
        "write_file_meta": lambda n: write_file_meta(CT, f"{ROOT}.{n}.1", syntax, "STORESCU"),
        "read_file_meta": lambda _: read_file_meta(source.file, complete=True),
    }


def _uri(path: str) -> str:
    return "bulkdata/" + path


def peers(source: Source) -> dict[str, Callable[[int], object]]:
    """Return the same done by pydicom."""

    def read(number: int) -> Dataset:
        file = source.file[: source.offset] + bytes(source(number))
        return pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True)

    return {"pydicom dcmread": read, "pydicom to_json_dict": lambda n: json.dumps(read(n).to_json_dict())}


def main() -> None:
    for size, pixels in (("512 KB", 524288), ("12 KB", 2048)):
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            source = Source(encoded(ct(pixels), syntax))
            for name, work in (cases(source) | (peers(source) if "--peers" in sys.argv else {})).items():
                found = rate(work, 200 if name.startswith("pydicom") else INSTANCES)
                line = {"what": name, "object": size, "syntax": syntax.name, "elements": ELEMENTS + 2}
                print(json.dumps(line | {"per_second": round(found), "us": round(1e6 / found, 1)}), flush=True)


if __name__ == "__main__":
    main()
