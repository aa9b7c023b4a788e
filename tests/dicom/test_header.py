from __future__ import annotations

import gc
import json
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicomnode.dicom.header import read_header
from dicomnode.dicom.part10 import read_file_meta
from dicomnode.dicom.scan import BIG, LITTLE, Walk
from dicomnode.errors import BadInstance
from dicomnode.model.attributes import BY_TAG, Level
from dicomnode.model.instance import Header
from tests.attacks import bombs
from tests.corpus import data_set_of, make, needs_corpus, part10
from tests.dicom import oracle

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def header_of(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Header:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = part10(ds, syntax)
    found = read_header(data_set_of(file), syntax)
    assert found is not None
    return found


def levels(header: Header) -> list[dict[str, Any]]:
    fragments = header.fragments
    return [json.loads(text) for text in (fragments.patient, fragments.study, fragments.series, fragments.instance)]


def check_as_pydicom(paths: list[Path]) -> int:
    compared = 0
    for path in paths:
        file = oracle.bytes_of(path)
        try:
            meta = read_file_meta(file, complete=True)
            assert meta is not None
            header = read_header(memoryview(file)[meta.data_set_offset :], meta.transfer_syntax_uid)
        except BadInstance:
            # As every file with an identity that is whole is compared, what is refused must lack one or the other.
            assert not all(oracle.read(file).get(keyword) for keyword in IDENTITY) or "truncated" in path.name, path
            continue
        assert header is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_one(header, oracle.read(file), path.name)
        compared += 1
    return compared


def check_one(header: Header, ds: Dataset, name: str) -> None:
    assert header.sop_instance_uid == ds.SOPInstanceUID, name
    assert header.study_uid == ds.StudyInstanceUID, name
    for level, found in zip(Level, levels(header), strict=True):
        indexed = {tag for tag, attribute in BY_TAG.items() if attribute.level == level and int(tag, 16) in ds}
        assert set(found) == indexed, name
        assert list(found) == sorted(found)
        for tag in indexed:
            expected = oracle.to_json(_alone(ds, int(tag, 16)))
            assert expected is None or {tag: found[tag]} == expected, (name, tag)


def _alone(ds: Dataset, tag: int) -> Dataset:
    part = Dataset()
    part[tag] = ds[tag]
    return part


def test_every_file_of_the_wheel_is_as_pydicom_has_it() -> None:
    assert check_as_pydicom(oracle.wheel()) > 70


@needs_corpus
@pytest.mark.timeout(180)
def test_every_file_of_the_corpus_is_as_pydicom_has_it() -> None:
    assert check_as_pydicom(oracle.corpus()) > 150


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_a_header_says(syntax: UID) -> None:
    ds = make(NumberOfFrames=3, PatientComments="", RequestAttributesSequence=[make(ScheduledProcedureStepID="S")])
    header = header_of(ds, syntax)
    assert header.sop_class_uid == ds.SOPClassUID
    assert header.sop_instance_uid == ds.SOPInstanceUID
    assert header.study_uid == ds.StudyInstanceUID
    assert header.series_uid == ds.SeriesInstanceUID
    assert (header.patient_id, header.study_date, header.accession_number) == ("P1", "20260102", "A1")
    assert header.number_of_frames == 3
    assert header.warnings == ()
    patient, study, series, instance = levels(header)
    assert patient["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}
    assert patient["00104000"] == {"vr": "LT"}
    assert "00104000" not in study
    assert study["00081030"] == {"vr": "LO", "Value": ["Head CT"]}
    assert series["00400275"]["Value"][0]["00400009"] == {"vr": "SH", "Value": ["S"]}
    assert instance["00280010"] == {"vr": "US", "Value": [8]}
    assert "7FE00010" not in instance


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_twice_is_the_same_and_so_is_another_buffer(syntax: UID) -> None:
    data = data_set_of(part10(make(), syntax))
    found = [read_header(kind(data), syntax) for kind in (bytes, bytearray, memoryview, bytes, bytes)]
    assert len(set(map(repr, found))) == 1


@pytest.mark.parametrize("missing", IDENTITY)
def test_what_identifies_must_be_there(missing: str) -> None:
    ds = make()
    delattr(ds, missing)
    data = oracle.written(ds, implicit=False, big_endian=False)
    with pytest.raises(BadInstance, match=f"{missing} is missing"):
        read_header(data, ExplicitVRLittleEndian)
    setattr(ds, missing, "")
    data = oracle.written(ds, implicit=False, big_endian=False)
    with pytest.raises(BadInstance, match=f"{missing} is empty"):
        read_header(data, ExplicitVRLittleEndian)


def with_uid(value: bytes, *, tag: int = 0x0020000D) -> bytes:
    data = oracle.written(make(), implicit=False, big_endian=False)
    at = data.index(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, b"UI"))
    (length,) = struct.unpack_from("<H", data, at + 6)
    return data[: at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + length :]


@pytest.mark.parametrize("value", [b"1.02", b"../../x", b"1" * 66, b"a b", b"\xff\xfe", b"1.2\\1.3 "])
def test_what_is_no_uid_still_identifies_with_a_warning(value: bytes) -> None:
    found = read_header(with_uid(value), ExplicitVRLittleEndian)
    assert found is not None
    assert found.study_uid == value.decode("latin-1").strip()
    if b"\\" not in value:
        (warning,) = found.warnings
        assert warning.startswith("StudyInstanceUID has a value ")
        assert value.decode("latin-1") not in warning


def test_a_uid_without_end_is_refused() -> None:
    for size in (1026, 20_000):
        with pytest.raises(BadInstance, match="StudyInstanceUID is longer than 1024 bytes"):
            read_header(with_uid(b"1" * size), ExplicitVRLittleEndian)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0\0", b"  \0"])
def test_padding_is_no_part_of_a_uid(padding: bytes) -> None:
    found = read_header(with_uid(b"1.2.3" + padding), ExplicitVRLittleEndian)
    assert found is not None
    assert found.study_uid == "1.2.3"


def test_warnings_name_attributes_and_no_values() -> None:
    ds = make()
    for keyword, value in (("StudyDate", "yesterday"), ("StudyTime", "noon"), ("StudyID", "S" * 17)):
        ds[keyword]._value = value
    ds.add_new(0x00280008, "IS", "1")
    ds["NumberOfFrames"]._value = "many"
    ds.SpecificCharacterSet = "ISO IR 100"
    found = header_of(ds)
    assert set(found.warnings) == {
        "SpecificCharacterSet has a term that is not defined",
        "StudyDate has a value that is no valid DA",
        "StudyTime has a value that is no valid TM",
        "StudyID has a value longer than 16 characters",
        "NumberOfFrames is no number of frames, taken as 1",
        "NumberOfFrames has a value that is no valid IS",
    }
    assert found.number_of_frames == 1
    assert found.warnings == header_of(ds).warnings


def test_a_value_too_long_for_the_index_is_left_out() -> None:
    ds = make(PatientComments="")
    ds["PatientComments"]._value = "x" * 17_000
    found = header_of(ds)
    assert found.warnings == ("PatientComments is longer than 16384 bytes, not indexed",)
    assert "00104000" not in levels(found)[0]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_head_is_enough_once_the_indexed_groups_are_over(syntax: UID) -> None:
    ds = make(PixelData=bytes(200_000))
    data = data_set_of(part10(ds, syntax))
    if syntax == DeflatedExplicitVRLittleEndian:
        assert read_header(data[:100], syntax, complete=False) is None
        assert read_header(data[: len(data) - 10], syntax, complete=False) == read_header(data, syntax)
        return
    mark = b"\x7f\xe0\0\x10" if syntax == ExplicitVRBigEndian else b"\xe0\x7f\x10\0"
    pixels = data.index(mark)
    whole = read_header(data, syntax)
    for end in range(0, pixels + 8, 7):
        assert read_header(data[:end], syntax, complete=False) is None
    assert read_header(data[: pixels + 8], syntax, complete=False) == whole
    assert read_header(memoryview(data)[:70_000], syntax, complete=False) == whole
    assert read_header(bytearray(data)[:70_000], syntax, complete=False) == whole


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_cut_anywhere_is_refused_when_there_is_no_more(syntax: UID) -> None:
    data = data_set_of(part10(make(), syntax))
    implicit, big_endian = syntax == ImplicitVRLittleEndian, syntax == ExplicitVRBigEndian
    walk = Walk(data, BIG if big_endian else LITTLE)
    ends = {element[2] + element[3] for element in walk.data_set(0, len(data), implicit, 0)[0]}
    for end in range(len(data)):
        try:
            read_header(data[:end], syntax)
        except BadInstance:
            continue
        # What cannot be seen is a cut between two elements of the top level, nor one that leaves zeros.
        assert end in ends or any(end - most in ends and not any(data[end - most : end]) for most in range(1, 8))


def test_encapsulated_pixel_data_must_have_its_end() -> None:
    ds = make()
    del ds.PixelData
    fragment = struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"\xff\xd8\xff\xd9"
    head = oracle.written(ds, implicit=False, big_endian=False)
    head += struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    trailing = struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 2) + b"ab"
    assert read_header(head + fragment * 3 + end, JPEGBaseline8Bit) is not None
    assert read_header(head + fragment * 3 + end + trailing, JPEGBaseline8Bit) is not None
    for cut in (head + fragment * 3, (head + fragment * 3)[:-2], head + fragment * 3 + end[:-1]):
        with pytest.raises(BadInstance, match=r"cut short in \(7FE0,0010\)"):
            read_header(cut, JPEGBaseline8Bit)


def test_a_malformed_sequence_is_left_out_of_the_index() -> None:
    ds = make(RequestAttributesSequence=[make()])
    data = bytearray(oracle.written(ds, implicit=False, big_endian=False))
    at = data.index(b"\x40\0\x75\x02SQ") + 12
    data[at : at + 4] = b"\xff\xff\xff\xff"
    found = read_header(data, ExplicitVRLittleEndian)
    assert found is not None
    assert found.warnings == ("RequestAttributesSequence is malformed, not indexed",)
    assert "00400275" not in levels(found)[2]
    assert levels(found)[2]["00080060"] == {"vr": "CS", "Value": ["CT"]}


def test_elements_out_of_order_are_found() -> None:
    ds = make()
    late = ds["StudyInstanceUID"]
    del ds.StudyInstanceUID
    data = oracle.written(ds, implicit=False, big_endian=False)
    pixels = data.index(b"\xe0\x7f\x10\0")
    behind = struct.pack("<HH2sH", 0x0088, 0x0200, b"US", 0)
    alone = Dataset()
    alone["StudyInstanceUID"] = late
    moved = data[:pixels] + behind + oracle.written(alone, implicit=False, big_endian=False) + data[pixels:]
    found = read_header(moved, ExplicitVRLittleEndian)
    assert found is not None
    assert found.study_uid == late.value


def test_an_inflation_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.dicom.inflate.MAX_BYTES", 1 << 20)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    element = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 1 << 30)
    bomb = deflater.compress(element + bytes(1 << 24)) + deflater.flush()
    for complete in (True, False):
        with pytest.raises(BadInstance, match="had to be inflated"):
            read_header(bomb, DeflatedExplicitVRLittleEndian, complete=complete)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(oracle.data_sets, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.integers(0, 2))
def test_damage_raises_nothing_but_bad_instance(ds: Dataset, damage: list[tuple[float, int]], kind: int) -> None:
    for element in make():
        if element.tag not in ds:
            ds.add(element)
    syntax = SYNTAXES[kind]
    data = bytearray(oracle.written(ds, implicit=kind == 1, big_endian=kind == 2))
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    for complete in (True, False):
        try:
            found = read_header(data, syntax, complete=complete)
        except BadInstance:
            continue
        assert found is None or all(isinstance(level, dict) for level in levels(found))


@given(st.binary(max_size=300), st.sampled_from(SYNTAXES))
def test_noise_raises_nothing_but_bad_instance(noise: bytes, syntax: UID) -> None:
    try:
        found = read_header(noise, syntax, complete=False)
    except BadInstance:
        return
    assert found is None


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_a_stray_delimiter_ends_the_data_set(syntax: UID) -> None:
    # Found by tests/fuzz.
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds = make()
    del ds.PixelData
    data = data_set_of(part10(ds, syntax)) + struct.pack(order + "HHL", 0xFFFE, 0xE00D, 0)
    for rest in (b"", b"more of it"):
        found = read_header(data + rest, syntax)
        assert found is not None
        assert found.sop_instance_uid == ds.SOPInstanceUID


def test_what_identifies_a_deflated_object_is_not_sought_for_long() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    far = struct.pack("<HH2sHL", 0x0007, 0x1001, b"OB", 0, 20 << 20) + bytes(20 << 20) + data_set_of(part10(make()))
    data = deflater.compress(far) + deflater.flush()
    with pytest.raises(BadInstance, match="more than 8388608 bytes"):
        read_header(data, DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("keyword", IDENTITY)
def test_a_nul_within_a_uid_is_refused(keyword: str) -> None:
    data = data_set_of(part10(make(**{keyword: "1.2.3.4.5.66"})))
    with pytest.raises(BadInstance, match=f"{keyword} has a NUL within it"):
        read_header(data.replace(b"1.2.3.4.5.66", b"1.2.3\x004.5.66"), ExplicitVRLittleEndian)
    found = read_header(data.replace(b"1.2.3.4.5.66", b"1.2.3.4.5.\0\0"), ExplicitVRLittleEndian)
    assert found is not None, "padding is forgiven"


def test_what_was_inflated_in_vain_is_let_go_at_once() -> None:
    deflated = bombs.header(60)
    read_in_vain(deflated)
    gc.collect()
    gc.disable()
    try:
        read_in_vain(deflated)
        assert gc.collect() < 10
    finally:
        gc.enable()


def read_in_vain(deflated: bytes) -> None:
    with pytest.raises(BadInstance, match="had to be inflated"):
        read_header(deflated, "1.2.840.10008.1.2.1.99")
