"""The attributes that the index keeps and searches, by level (PS3.4 C.6, PS3.18 10.6.3.3).

`INDEXED` is what a query may return without reading the object again. `SEARCHED` are those of them that the
database holds as normalised columns; a key outside it is matched on the returned attributes.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec


class Level(IntEnum):
    """The levels of the query/retrieve information model, outermost first (PS3.4 C.6.1.1)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    INSTANCE = 3


class Form(StrEnum):
    """How a searched column is normalised before it is compared."""

    EXACT = "exact"  # as sent, without padding
    FOLDED = "folded"  # case and accents folded, runs of spaces as one
    NAME = "name"  # a person name: folded, component groups apart
    DATE = "date"  # YYYYMMDD
    TIME = "time"  # HHMMSS.FFFFFF
    NUMBER = "number"  # an integer without leading zeros
    UID = "uid"


class Attribute(msgspec.Struct, frozen=True):
    """One attribute of the index: its tag as 8 hex digits, keyword, VR, level, and the form of its column."""

    tag: str
    keyword: str
    vr: str
    level: Level
    form: Form | None = None


def _rows(level: Level, text: str) -> list[Attribute]:
    rows = []
    for line in text.strip().splitlines():
        tag, keyword, vr, *form = line.split()
        rows.append(Attribute(tag, keyword, vr, level, Form(form[0]) if form else None))
    return rows


_PATIENT = """
00100010 PatientName PN name
00100020 PatientID LO exact
00100021 IssuerOfPatientID LO exact
00100030 PatientBirthDate DA date
00100032 PatientBirthTime TM
00100040 PatientSex CS exact
00101000 OtherPatientIDs LO
00101001 OtherPatientNames PN
00102160 EthnicGroup SH
00104000 PatientComments LT
"""

_STUDY = """
00080020 StudyDate DA date
00080030 StudyTime TM time
00080050 AccessionNumber SH exact
00080090 ReferringPhysicianName PN name
00080201 TimezoneOffsetFromUTC SH
00081030 StudyDescription LO folded
00081032 ProcedureCodeSequence SQ
00081048 PhysiciansOfRecord PN
00081060 NameOfPhysiciansReadingStudy PN
00081080 AdmittingDiagnosesDescription LO
00101010 PatientAge AS
00101020 PatientSize DS
00101030 PatientWeight DS
001021C0 PregnancyStatus US
00102180 Occupation SH
001021B0 AdditionalPatientHistory LT
0020000D StudyInstanceUID UI uid
00200010 StudyID SH exact
0032000A StudyStatusID CS
00321032 RequestingPhysician PN
00321060 RequestedProcedureDescription LO
"""

_SERIES = """
00080021 SeriesDate DA date
00080031 SeriesTime TM time
00080060 Modality CS exact
00080070 Manufacturer LO
00080080 InstitutionName LO folded
00081010 StationName SH exact
0008103E SeriesDescription LO folded
00081040 InstitutionalDepartmentName LO
00081050 PerformingPhysicianName PN name
00081070 OperatorsName PN
00081090 ManufacturerModelName LO
00180015 BodyPartExamined CS exact
00181000 DeviceSerialNumber LO
00181020 SoftwareVersions LO
00181030 ProtocolName LO folded
00185100 PatientPosition CS
0020000E SeriesInstanceUID UI uid
00200011 SeriesNumber IS number
00200052 FrameOfReferenceUID UI
00200060 Laterality CS
00201002 ImagesInAcquisition IS
00400244 PerformedProcedureStepStartDate DA date
00400245 PerformedProcedureStepStartTime TM time
00400253 PerformedProcedureStepID SH
00400254 PerformedProcedureStepDescription LO
00400275 RequestAttributesSequence SQ
"""

_INSTANCE = """
00080008 ImageType CS
00080012 InstanceCreationDate DA
00080013 InstanceCreationTime TM
00080016 SOPClassUID UI uid
00080018 SOPInstanceUID UI uid
00080022 AcquisitionDate DA
00080023 ContentDate DA date
0008002A AcquisitionDateTime DT
00080032 AcquisitionTime TM
00080033 ContentTime TM time
00180050 SliceThickness DS
00180060 KVP DS
00180088 SpacingBetweenSlices DS
00200012 AcquisitionNumber IS
00200013 InstanceNumber IS number
00200032 ImagePositionPatient DS
00200037 ImageOrientationPatient DS
00201041 SliceLocation DS
00204000 ImageComments LT
00280002 SamplesPerPixel US
00280004 PhotometricInterpretation CS
00280008 NumberOfFrames IS
00280010 Rows US
00280011 Columns US
00280030 PixelSpacing DS
00280100 BitsAllocated US
00280101 BitsStored US
00280102 HighBit US
00280103 PixelRepresentation US
00281050 WindowCenter DS
00281051 WindowWidth DS
00281052 RescaleIntercept DS
00281053 RescaleSlope DS
00281054 RescaleType LO
00420010 DocumentTitle ST
00700080 ContentLabel CS
00700081 ContentDescription LO
0040A043 ConceptNameCodeSequence SQ
0040A491 CompletionFlag CS
0040A493 VerificationFlag CS
"""

INDEXED: tuple[Attribute, ...] = (
    *_rows(Level.PATIENT, _PATIENT),
    *_rows(Level.STUDY, _STUDY),
    *_rows(Level.SERIES, _SERIES),
    *_rows(Level.INSTANCE, _INSTANCE),
)
SEARCHED: tuple[Attribute, ...] = tuple(attribute for attribute in INDEXED if attribute.form is not None)
BY_TAG: dict[str, Attribute] = {attribute.tag: attribute for attribute in INDEXED}
BY_KEYWORD: dict[str, Attribute] = {attribute.keyword: attribute for attribute in INDEXED}


_SEARCHED_AT = {level: tuple(attribute for attribute in SEARCHED if attribute.level == level) for level in Level}


def searched_at(level: Level) -> tuple[Attribute, ...]:
    """Return the searched attributes that belong to `level` itself, in the order of the tables above."""
    return _SEARCHED_AT[level]
