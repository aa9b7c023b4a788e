from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

from dicomnode.dicom.header import read_header
from dicomnode.dicom.image_state import Series, image_meta, series_key, state_meta
from dicomnode.model.instance import Arrival, Door, Fragments
from dicomnode.model.messages import (
    DicomImageMeta,
    DicomObjectMeta,
    DicomStateMeta,
    decode_object_meta,
    encode,
    object_meta,
)
from dicomnode.model.uid_hash import uid_hash
from dicomnode.model.warehouse import IMAGE, STATE, Kind
from tests.corpus import corpus_files, data_set_of, identified, make, part10, wheel_files

ARRIVAL = Arrival("default", Door.STOW, str(ExplicitVRLittleEndian))
KEY = f"default/20260102/1/2/3-{'0' * 20}.dcm"


def message(ds: Dataset) -> DicomObjectMeta:
    """Return what a consumer is told of `ds`, as it comes off the wire."""
    return of_data_set(data_set_of(part10(ds)))


def of_data_set(data_set: bytes, syntax: str = ExplicitVRLittleEndian) -> DicomObjectMeta:
    header = read_header(data_set, syntax)
    assert header is not None
    meta = object_meta(ARRIVAL, header, KEY, 400, len(data_set), "0" * 64)
    return decode_object_meta(encode(meta))


def state(meta: DicomObjectMeta, instances: int = 1) -> DicomStateMeta:
    text: Fragments = meta.attributes.fragments()
    series = Series(text.patient, text.study, text.series, instances)
    return state_meta("default", series_key(series), series, "2026-01-02T00:00:00.000+00:00", meta.created_time)


def of_instance(**values: Any) -> DicomImageMeta:
    """Return the image of an object whose instance has these elements: tag=[values]."""
    fragment = json.dumps({tag[1:]: {"vr": "UN", "Value": told} for tag, told in values.items()})
    return of_fragment(fragment)


def of_fragment(fragment: str) -> DicomImageMeta:
    meta = _ANY
    attributes = msgspec.structs.replace(meta.attributes, instance=msgspec.Raw(fragment.encode()))
    return image_meta(msgspec.structs.replace(meta, attributes=attributes))


_ANY = message(make())


def test_every_field_of_an_image() -> None:
    ds = make(
        Rows=512,
        Columns=256,
        PixelData=b"",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        ContentDate="20260103",
        ContentTime="101112.5",
        ImagePositionPatient=["-171.16", "-179.5", "2"],
        ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
        SliceThickness="1.5",
        SpacingBetweenSlices="0.75",
        SliceLocation="-12.25",
        RescaleIntercept="-1024",
        RescaleSlope="1",
        RescaleType="HU",
        WindowCenter=["40", "-600"],
        WindowWidth=["400", "1200"],
        InstanceNumber=7,
    )
    meta = message(ds)
    told = image_meta(meta)
    assert told == DicomImageMeta(
        tenant_id="default",
        patient_id="P1",
        study_uid=ds.StudyInstanceUID,
        series_uid=ds.SeriesInstanceUID,
        sop_uid=ds.SOPInstanceUID,
        study_uid_hash=uid_hash(ds.StudyInstanceUID),
        series_uid_hash=uid_hash(ds.SeriesInstanceUID),
        sop_class_uid=ds.SOPClassUID,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        space_size=meta.file_size,
        created_time=meta.created_time,
        updated_time=meta.created_time,
        instance_number=7,
        content_date="2026-01-03",
        content_time="101112.5",
        image_type="ORIGINAL\\PRIMARY\\AXIAL",
        image_orientation_patient="1\\0\\0\\0\\1\\0",
        image_position_patient="-171.16\\-179.5\\2",
        slice_thickness=1.5,
        spacing_between_slices=0.75,
        slice_location=-12.25,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        rows=512,
        columns=256,
        bits_allocated=16,
        bits_stored=12,
        high_bit=11,
        pixel_representation=0,
        rescale_intercept=-1024.0,
        rescale_slope=1.0,
        rescale_type="HU",
        window_center="40\\-600",
        window_width="400\\1200",
    )


def test_every_field_of_a_series() -> None:
    ds = make(
        PatientName="Müller^Änne=A=B",
        PatientBirthTime="0102",
        PatientAge="074Y",
        PatientSize="1.75",
        PatientWeight="80",
        PregnancyStatus=4,
        SeriesDate="20260103",
        SeriesTime="1112",
        SeriesDescription="x" * 300,
        BodyPartExamined="HEAD",
        ProtocolName="Protocol",
    )
    meta = message(ds)
    told = state(meta, 12)
    assert told == DicomStateMeta(
        tenant_id="default",
        patient_id="P1",
        study_uid=ds.StudyInstanceUID,
        series_uid=ds.SeriesInstanceUID,
        study_uid_hash=uid_hash(ds.StudyInstanceUID),
        series_uid_hash=uid_hash(ds.SeriesInstanceUID),
        created_time="2026-01-02T00:00:00.000+00:00",
        updated_time=meta.created_time,
        study_date_origin="20260102",
        patient_name="Müller^Änne=A=B",
        patient_sex="F",
        patient_birth_date="1970-01-02",
        patient_birth_time="0102",
        patient_age="074Y",
        patient_size=1.75,
        patient_weight=80.0,
        pregnancy_status=4,
        study_date="2026-01-02",
        study_time="101112",
        accession_number="A1",
        study_id="S1",
        study_description="Head CT",
        modality="CT",
        series_number=1,
        series_date="2026-01-03",
        series_time="1112",
        series_description="x" * 300,
        body_part_examined="HEAD",
        protocol_name="Protocol",
        series_related_instances=12,
    )


def test_an_object_that_is_no_image_is_told_of_too() -> None:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EncapsulatedPDFStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality, ds.EncapsulatedDocument = "DOC", b"%PDF-1.4 "
    meta = message(ds)
    told = image_meta(meta)
    assert (told.sop_uid, told.sop_class_uid, told.image_status) == (
        ds.SOPInstanceUID,
        EncapsulatedPDFStorage,
        "ACTIVE",
    )
    assert (told.rows, told.columns, told.slice_thickness, told.content_date) == (0, 0, None, None)
    assert (state(meta).modality, state(meta).study_date, state(meta).patient_id) == ("DOC", None, "")


@pytest.mark.parametrize(
    ("date", "told"),
    [("20260102", "2026-01-02"), ("2026.01.02", "2026-01-02"), ("20261301", None), ("2026", None), ("", None)],
)
def test_a_date_that_is_none_is_null_and_stands_as_it_came(date: str, told: str | None) -> None:
    with pydicom.config.disable_value_validation():
        found = state(message(make(StudyDate=date)))
    assert (found.study_date, found.study_date_origin) == (told, date)


@pytest.mark.parametrize("value", ['"NaN"', '"inf"', "1E999", "-1e999", '"a"', "null", "{}", "[]", "1" * 5000, '""'])
def test_a_number_that_is_none_is_null(value: str) -> None:
    told = of_fragment(f'{{"00180050":{{"vr":"DS","Value":[{value}]}},"00280010":{{"vr":"US","Value":[{value}]}}}}')
    assert (told.slice_thickness, told.rows) == (None, 0)


def test_numbers_of_several_values_and_of_more_than_64_bits() -> None:
    told = of_instance(_00180050=[2, 3.5], _00280010=[2**63], _00280011=[-(2**63)], _00281050=[1e-7, "x", None, 10**19])
    assert (told.slice_thickness, told.rows, told.columns) == (2.0, 0, -(2**63))
    assert told.window_center == "1e-07\\x\\\\10000000000000000000"


def test_rows_and_columns_are_each_what_they_are() -> None:
    told = of_instance(_00280010=[3], _00280011=[4])
    assert (told.rows, told.columns) == (3, 4)


_text = st.text(st.characters(codec="utf-8"), max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_tags = st.sampled_from(["00280010", "00180050", "00080023", "00200013", "00080008", "00281050", "00201041"])


@given(st.dictionaries(_tags, st.lists(_json, max_size=3)))
def test_whatever_stands_there_the_row_fits_the_columns(values: dict[str, list[Any]]) -> None:
    told = of_instance(**{f"_{tag}": several for tag, several in values.items()})
    body = encode(told)
    assert msgspec.json.decode(body, type=DicomImageMeta) == told
    for column in IMAGE.columns:
        value = getattr(told, column.name)
        if column.kind is Kind.INTEGER:
            assert -(2**63) <= value < 2**63


def _files() -> list[Path]:
    """Return some of the real objects, the same ones every time."""
    return [*wheel_files()[::3], *random.Random(1).sample(found := corpus_files(), min(20, len(found)))]


def test_real_objects_are_told_as_pydicom_reads_them() -> None:
    """pydicom is the oracle for whatever both read."""
    seen = 0
    for path in _files():
        ds = identified(path)
        if ds is None or not getattr(ds, "file_meta", None) or "TransferSyntaxUID" not in ds.file_meta:
            continue
        try:
            meta = of_data_set(data_set_of(path.read_bytes()), ds.file_meta.TransferSyntaxUID)
        except Exception:  # noqa: BLE001 -- what the door refuses is told of nowhere
            continue
        image, series = image_meta(meta), state(meta)
        assert (image.rows, image.columns) == (ds.get("Rows") or 0, ds.get("Columns") or 0), path
        assert image.photometric_interpretation == (ds.get("PhotometricInterpretation") or ""), path
        assert (series.modality, series.series_uid) == (ds.get("Modality") or "", ds.SeriesInstanceUID), path
        thickness = ds.get("SliceThickness")
        assert image.slice_thickness == (None if thickness in (None, "") else float(thickness)), path
        seen += 1
    assert seen > 10


def test_the_rows_have_every_column_of_their_tables() -> None:
    for table, kind in ((IMAGE, DicomImageMeta), (STATE, DicomStateMeta)):
        assert {column.name for column in table.columns} == set(kind.__struct_fields__)
