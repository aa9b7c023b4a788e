"""What the archive tells of an image and of a series, from their indexed attributes: DicomImageMeta, DicomStateMeta.

A value that is not of its kind is as if it were not there: no object is left out because of one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from dicomnode.dicom.matching import normalise, text_of
from dicomnode.model.attributes import BY_KEYWORD, Form
from dicomnode.model.messages import DicomImageMeta, DicomObjectMeta, DicomStateMeta, iso_date
from dicomnode.model.uid_hash import uid_hash

_PATIENT = ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "PatientBirthTime")
_STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"),
    *("PatientAge", "PatientSize", "PatientWeight", "PregnancyStatus"),
)
_SERIES = (
    *("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDate", "SeriesTime", "SeriesDescription"),
    *("BodyPartExamined", "ProtocolName"),
)
_IMAGE = (
    *("InstanceNumber", "ContentDate", "ContentTime", "ImageType", "ImageOrientationPatient", "ImagePositionPatient"),
    *("SliceThickness", "SpacingBetweenSlices", "SliceLocation", "SamplesPerPixel", "PhotometricInterpretation"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept"),
    *("RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth"),
)


class _Element(msgspec.Struct, frozen=True):
    Value: list[Any] = []


class _Attributes:
    """A reader of the elements of one level that are wanted; the others are passed over."""

    def __init__(self, name: str, keywords: Sequence[str]) -> None:
        fields = [(keyword, _Element | None, None) for keyword in keywords]
        rename = {keyword: BY_KEYWORD[keyword].tag for keyword in keywords}
        self._shape = msgspec.defstruct(name, fields, rename=rename, frozen=True, gc=False)
        self._decode: Callable[[Any], Any] = msgspec.json.Decoder(self._shape).decode

    def read(self, fragment: str | msgspec.Raw) -> Any:
        """Return an object with an attribute for each keyword, None where it is not there."""
        try:
            return self._decode(fragment)
        except msgspec.DecodeError:
            # A number that no double holds (1E999), which the grammar of DS lets through.
            text = fragment if isinstance(fragment, str) else bytes(fragment).decode()
            read = json.loads(text, parse_int=_whole, parse_float=_finite)
            return msgspec.convert(read, self._shape)


def _whole(text: str) -> int | str:
    return int(text) if len(text) < 20 else text


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


_read_patient = lru_cache(512)(_Attributes("Patient", _PATIENT).read)
_read_study = lru_cache(512)(_Attributes("Study", _STUDY).read)
_read_series = _Attributes("Series", _SERIES).read
_read_image = _Attributes("Image", _IMAGE).read


def image_meta(meta: DicomObjectMeta) -> DicomImageMeta:
    """Return what is told of an object that was indexed; of one that is no image, what it has."""
    told = _read_image(meta.attributes.instance)
    return DicomImageMeta(
        tenant_id=meta.tenant_id,
        patient_id=meta.patient_id,
        study_uid=meta.study_uid,
        series_uid=meta.series_uid,
        sop_uid=meta.sop_uid,
        study_uid_hash=meta.study_uid_hash or uid_hash(meta.study_uid),
        series_uid_hash=meta.series_uid_hash or uid_hash(meta.series_uid),
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        space_size=meta.file_size,
        created_time=meta.created_time,
        updated_time=meta.created_time,
        instance_number=_integer(told.InstanceNumber),
        content_date=_date(told.ContentDate),
        content_time=_text(told.ContentTime),
        image_type=_text(told.ImageType),
        image_orientation_patient=_text(told.ImageOrientationPatient),
        image_position_patient=_text(told.ImagePositionPatient),
        slice_thickness=_number(told.SliceThickness),
        spacing_between_slices=_number(told.SpacingBetweenSlices),
        slice_location=_number(told.SliceLocation),
        samples_per_pixel=_integer(told.SamplesPerPixel),
        photometric_interpretation=_text(told.PhotometricInterpretation),
        rows=_integer(told.Rows),
        columns=_integer(told.Columns),
        bits_allocated=_integer(told.BitsAllocated),
        bits_stored=_integer(told.BitsStored),
        high_bit=_integer(told.HighBit),
        pixel_representation=_integer(told.PixelRepresentation),
        rescale_intercept=_number(told.RescaleIntercept),
        rescale_slope=_number(told.RescaleSlope),
        rescale_type=_text(told.RescaleType),
        window_center=_text(told.WindowCenter),
        window_width=_text(told.WindowWidth),
    )


class Series(msgspec.Struct, frozen=True):
    """A series as the index has it: its attributes by level as DICOM JSON, and how many instances there are of it."""

    patient: str
    study: str
    series: str
    instances: int


def series_key(found: Series) -> tuple[str, str]:
    """Return the study and series UID of a series."""
    return (
        _text(_read_study(found.study).StudyInstanceUID),
        _text(_read_series(found.series).SeriesInstanceUID),
    )


def state_meta(tenant: str, key: tuple[str, str], found: Series, created: str, updated: str) -> DicomStateMeta:
    """Return what is told of the series with these study and series UIDs."""
    patient, study, series = _read_patient(found.patient), _read_study(found.study), _read_series(found.series)
    study_uid, series_uid = key
    return DicomStateMeta(
        tenant_id=tenant,
        patient_id=_text(patient.PatientID),
        study_uid=study_uid,
        series_uid=series_uid,
        study_uid_hash=uid_hash(study_uid),
        series_uid_hash=uid_hash(series_uid),
        created_time=created,
        updated_time=updated,
        study_date_origin=_text(study.StudyDate),
        patient_name=_text(patient.PatientName),
        patient_sex=_text(patient.PatientSex),
        patient_birth_date=_date(patient.PatientBirthDate),
        patient_birth_time=_text(patient.PatientBirthTime),
        patient_age=_text(study.PatientAge),
        patient_size=_number(study.PatientSize),
        patient_weight=_number(study.PatientWeight),
        pregnancy_status=_integer(study.PregnancyStatus),
        study_date=_date(study.StudyDate),
        study_time=_text(study.StudyTime),
        accession_number=_text(study.AccessionNumber),
        study_id=_text(study.StudyID),
        study_description=_text(study.StudyDescription),
        modality=_text(series.Modality),
        series_number=_integer(series.SeriesNumber),
        series_date=_date(series.SeriesDate),
        series_time=_text(series.SeriesTime),
        series_description=_text(series.SeriesDescription),
        body_part_examined=_text(series.BodyPartExamined),
        protocol_name=_text(series.ProtocolName),
        series_related_instances=found.instances,
    )


_NUMBERS = (float, int)


def _text(element: _Element | None) -> str:
    """Return all values as one text, apart by backslashes as they were in the object."""
    if element is None:
        return ""
    values = element.Value
    if len(values) == 1:
        value = values[0]
        return value if type(value) is str else text_of(value)
    return "\\".join([repr(value) if type(value) in _NUMBERS else text_of(value) for value in values])


def _date(element: _Element | None) -> str | None:
    if element is None or not element.Value:
        return None
    text = text_of(element.Value[0])
    return iso_date(text) or iso_date(normalise(Form.DATE, text))  # as it should be, or with the full stops of old


def _number(element: _Element | None) -> float | None:
    """Return the first value as a number; None for what is none, or more than a double holds."""
    if element is None or not element.Value:
        return None
    value = element.Value[0]
    if type(value) is float:
        return value if math.isfinite(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _integer(element: _Element | None) -> int:
    """Return the first value as an integer; 0 for what is none, or more than 64 bits hold."""
    if element is None or not element.Value:
        return 0
    value = element.Value[0]
    if type(value) is not int:
        return 0
    return value if -(2**63) <= value < 2**63 else 0
