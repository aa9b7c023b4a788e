"""A realistic header: some 250 elements, with sequences and private blocks, as a scanner writes them. Invented."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

_TEXTS = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"],
    "InstanceCreationDate": "20240102",
    "InstanceCreationTime": "101112.131415",
    "SeriesDate": "20240102",
    "AcquisitionDate": "20240102",
    "ContentDate": "20240102",
    "StudyTime": "100000.000000",
    "SeriesTime": "100100.000000",
    "AcquisitionTime": "100101.250000",
    "ContentTime": "100101.250000",
    "Modality": "CT",
    "Manufacturer": "Invented Imaging",
    "InstitutionName": "Nowhere General Hospital",
    "InstitutionAddress": "1 Example Street, Nowhere",
    "ReferringPhysicianName": "Referrer^Invented^^Dr",
    "StationName": "CT00001",
    "StudyDescription": "Abdomen and pelvis with contrast",
    "SeriesDescription": "Abdomen 1.0 B30f portal venous",
    "InstitutionalDepartmentName": "Radiology",
    "PerformingPhysicianName": "Performer^Invented",
    "OperatorsName": "Operator^Invented",
    "ManufacturerModelName": "Model Nothing 64",
    "PatientBirthDate": "19600229",
    "PatientSex": "O",
    "PatientAge": "063Y",
    "PatientWeight": "71.5",
    "PatientComments": "An invented patient for measurements",
    "BodyPartExamined": "ABDOMEN",
    "ScanOptions": "HELICAL",
    "SliceThickness": "1.0",
    "KVP": "120",
    "DataCollectionDiameter": "500",
    "DeviceSerialNumber": "60000",
    "SoftwareVersions": "INV 2024A",
    "ProtocolName": "AbdPelRoutine",
    "ContrastBolusAgent": "Invented contrast 350",
    "ReconstructionDiameter": "380",
    "DistanceSourceToDetector": "1040",
    "DistanceSourceToPatient": "570",
    "GantryDetectorTilt": "0",
    "TableHeight": "164",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "XRayTubeCurrent": "210",
    "Exposure": "105",
    "FilterType": "0",
    "GeneratorPower": "40",
    "FocalSpots": "1.2",
    "DateOfLastCalibration": "20240101",
    "TimeOfLastCalibration": "060000.000000",
    "ConvolutionKernel": "B30f",
    "PatientPosition": "FFS",
    "StudyID": "1",
    "AcquisitionNumber": "2",
    "ImagePositionPatient": ["-189.6", "-345.6", "-512.5"],
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "PositionReferenceIndicator": "",
    "SliceLocation": "-512.5",
    "ImageComments": "For measurements only",
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelSpacing": ["0.7421875", "0.7421875"],
    "WindowCenter": ["40", "-600"],
    "WindowWidth": ["300", "1600"],
    "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "RequestingPhysician": "Requester^Invented",
    "RequestedProcedureDescription": "CT abdomen and pelvis",
    "PerformedProcedureStepStartDate": "20240102",
    "PerformedProcedureStepStartTime": "100000.000000",
    "PerformedProcedureStepID": "PPS1",
    "PerformedProcedureStepDescription": "CT abdomen and pelvis",
}
_CODED = (
    "ProcedureCodeSequence",
    "AnatomicRegionSequence",
    "RequestedProcedureCodeSequence",
    "PerformedProtocolCodeSequence",
)
_PRIVATE_BLOCKS = (
    (0x0019, "INVENTED CT VA0"),
    (0x0021, "INVENTED MED"),
    (0x0029, "INVENTED CSA"),
    (0x0099, "INVENTED X"),
)
_PRIVATE_ELEMENTS = 30


def header(sop_class_uid: str, side: int, study_uid: str, patient: int) -> Dataset:
    """Return the header, without pixels, of a 16-bit image `side` pixels square."""
    dataset = Dataset()
    for keyword, value in _TEXTS.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID = sop_class_uid
    dataset.Modality = "CT" if side == 512 else "MR"
    dataset.PatientName = f"Invented^Patient{patient}"
    dataset.PatientID = f"BENCH{patient:04}"
    dataset.AccessionNumber = f"ACC{patient:06}"
    dataset.StudyDate = f"202401{patient % 28 + 1:02}"
    dataset.StudyInstanceUID = study_uid
    dataset.FrameOfReferenceUID = generate_uid()
    _set_pixel_module(dataset, side)
    _set_sequences(dataset)
    _set_private(dataset)
    return dataset


def write_object(path: Path, dataset: Dataset) -> None:
    """Write `dataset` to `path` as a Part 10 file in Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)


def _set_pixel_module(dataset: Dataset, side: int) -> None:
    dataset.SamplesPerPixel = 1
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.SmallestImagePixelValue, dataset.LargestImagePixelValue = 0, 65535


def _set_sequences(dataset: Dataset) -> None:
    for number, keyword in enumerate(_CODED):
        setattr(dataset, keyword, Sequence([_code(number)]))
    dataset.ReferencedStudySequence = Sequence([_reference("1.2.840.10008.3.1.2.3.1")])
    dataset.ReferencedImageSequence = Sequence([_reference(dataset.SOPClassUID) for _ in range(3)])
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.ScheduledProcedureStepID = "SPS1"
    request.ScheduledProcedureStepDescription = "CT abdomen"
    request.ScheduledProtocolCodeSequence = Sequence([_code(9)])
    dataset.RequestAttributesSequence = Sequence([request])


def _code(number: int) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = f"C{number:04}", "99BENCH"
    item.CodeMeaning = f"An invented meaning {number}"
    return item


def _reference(sop_class_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = generate_uid()
    return item


def _set_private(dataset: Dataset) -> None:
    for group, creator in _PRIVATE_BLOCKS:
        block = dataset.private_block(group, creator, create=True)
        for number in range(0, _PRIVATE_ELEMENTS, 3):
            block.add_new(number, "LO", f"private value {number}")
            block.add_new(number + 1, "DS", f"{number}.25")
            block.add_new(number + 2, "UL", number * 1000)
