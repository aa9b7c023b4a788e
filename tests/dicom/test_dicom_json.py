from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicomnode.dicom.dicom_json import to_dicom_json
from dicomnode.dicom.json_writer import Memo
from dicomnode.dicom.part10 import read_file_meta
from dicomnode.errors import BadInstance
from tests.corpus import data_set_of, make, needs_corpus, part10
from tests.dicom import oracle

SYNTAXES = {
    (False, False): ExplicitVRLittleEndian,
    (True, False): ImplicitVRLittleEndian,
    (False, True): ExplicitVRBigEndian,
}
# Cut short, or with lengths that are not true: pydicom makes the best of them, we refuse what is not whole.
BROKEN = {"MR_truncated.dcm", "rtplan_truncated.dcm", "DICOMDIR-nooffset", "no_meta.dcm"}
# Decimals where integers should be: pydicom cuts them off, we keep the text that was sent.
LOSSY = {"DX-Im-DRGEM.dcm"}


def parsed(data: bytes, syntax: str, **options: Any) -> dict[str, Any]:
    found = to_dicom_json(data, syntax, lambda _: oracle.URI, **options)
    assert found is not None
    value: dict[str, Any] = json.loads(found)
    return value


def check_as_pydicom(paths: list[Path]) -> int:
    compared = 0
    for path in paths:
        file = oracle.bytes_of(path)
        if path.name in BROKEN:
            with pytest.raises(BadInstance):
                _of_file(file)
            continue
        expected = oracle.to_json(oracle.read(file))
        found = _of_file(file)
        if expected is None or path.name in LOSSY:
            continue
        assert oracle.normal(found) == expected, path.name
        assert list(found) == sorted(found)
        compared += 1
    return compared


def _of_file(file: bytes) -> dict[str, Any]:
    meta = read_file_meta(file, complete=True)
    assert meta is not None
    return parsed(file[meta.data_set_offset :], meta.transfer_syntax_uid)


def test_every_file_of_the_wheel_is_as_pydicom_has_it() -> None:
    assert check_as_pydicom(oracle.wheel()) > 100


@needs_corpus
@pytest.mark.timeout(300)
def test_every_file_of_the_corpus_is_as_pydicom_has_it() -> None:
    # Two reports of millions of bytes take pydicom most of the time and say nothing new.
    slow = {"RF-Pat-Orientation-Modifier-Missing.dcm", "RF-RDSR-Philips_Azurion.dcm"}
    assert check_as_pydicom([path for path in oracle.corpus() if path.name not in slow]) > 150


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(oracle.data_sets, oracle.encodings)
def test_whatever_pydicom_writes_is_as_pydicom_reads_it(ds: Dataset, encoding: tuple[bool, bool]) -> None:
    implicit, big_endian = encoding
    data = oracle.written(ds, implicit=implicit, big_endian=big_endian)
    expected = oracle.to_json(oracle.read_back(data, implicit=implicit, big_endian=big_endian))
    found = parsed(data, SYNTAXES[encoding])
    if expected is not None:
        assert oracle.normal(found) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(oracle.data_sets, oracle.encodings)
def test_a_cut_is_refused_or_falls_between_two_elements(ds: Dataset, encoding: tuple[bool, bool]) -> None:
    data = oracle.written(ds, implicit=encoding[0], big_endian=encoding[1])
    whole = parsed(data, SYNTAXES[encoding])
    for end in range(len(data)):
        assert to_dicom_json(data[:end], SYNTAXES[encoding], None, complete=False) is None
        try:
            part = parsed(data[:end], SYNTAXES[encoding])
        except BadInstance:
            continue
        assert part.items() <= whole.items() or end < 8


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(oracle.data_sets, oracle.encodings, st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=5))
def test_flipped_bits_raise_nothing_but_bad_instance(
    ds: Dataset, encoding: tuple[bool, bool], flips: list[tuple[float, int]]
) -> None:
    data = bytearray(oracle.written(ds, implicit=encoding[0], big_endian=encoding[1]))
    for place, bits in flips:
        data[int(place * (len(data) - 1))] ^= bits
    for syntax in SYNTAXES.values():
        for complete in (True, False):
            try:
                found = to_dicom_json(data, syntax, lambda _: oracle.URI, complete=complete)
            except BadInstance:
                continue
            assert found is None or isinstance(json.loads(found), dict)


@given(st.binary(max_size=300))
@example(b"\x08\0\x05\0CS\0\0")
def test_noise_raises_nothing_but_bad_instance(noise: bytes) -> None:
    for syntax in (*SYNTAXES.values(), DeflatedExplicitVRLittleEndian):
        try:
            found = to_dicom_json(noise, syntax, None)
        except BadInstance:
            continue
        assert found is not None
        assert isinstance(json.loads(found), dict)


def nested(depth: int, *, undefined: bool) -> bytes:
    header = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    if undefined:
        return (header + item) * depth + struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth
    data = b""
    for _ in range(depth):
        data = struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data
        data = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(data)) + data
    return data


@pytest.mark.parametrize("undefined", [True, False])
def test_nesting_has_an_end(undefined: bool) -> None:
    level: Any = parsed(nested(64, undefined=undefined), ExplicitVRLittleEndian)
    depth = 0
    while level:
        level, depth = level["00081140"]["Value"][0], depth + 1
    assert depth == 64
    for too_deep in (65, 300, 10_000):
        with pytest.raises(BadInstance, match="deeper than 64"):
            parsed(nested(too_deep, undefined=undefined), ExplicitVRLittleEndian)


def test_bulk_data_is_named_by_its_path() -> None:
    item = Dataset()
    item.add_new(0x00420011, "OB", b"%PDF" * 300)
    ds = make(ReferencedImageSequence=[Dataset(), item])
    paths: list[str] = []

    def uri(path: str) -> str:
        paths.append(path)
        return f'https://here/{path}?a="b"'

    found = to_dicom_json(data_set_of(part10(ds)), ExplicitVRLittleEndian, uri)
    assert found is not None
    value = json.loads(found)
    assert paths == ["00081140/2/00420011", "7FE00010"]
    assert value["7FE00010"] == {"vr": "OW", "BulkDataURI": 'https://here/7FE00010?a="b"'}


def test_without_bulk_data_pixels_are_left_out_and_the_rest_is_inline() -> None:
    item = Dataset()
    item.add_new(0x00420011, "OB", b"%PDF" * 300)
    found = to_dicom_json(data_set_of(part10(make(ReferencedImageSequence=[item]))), ExplicitVRLittleEndian, None)
    assert found is not None
    value = json.loads(found)
    assert "7FE00010" not in value
    assert len(value["00081140"]["Value"][0]["00420011"]["InlineBinary"]) == 1600


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit])
def test_a_head_up_to_the_pixel_data_is_enough(syntax: str) -> None:
    ds = make()
    data = oracle.written(ds, implicit=syntax == ImplicitVRLittleEndian, big_endian=False)
    if syntax == JPEGBaseline8Bit:
        data = data[: data.index(b"\xe0\x7f\x10\0")] + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
        data += struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE0DD, 0)
    whole = parsed(data, syntax)
    pixels = data.index(b"\xe0\x7f\x10\0")
    header = 8 if syntax == ImplicitVRLittleEndian else 12
    assert to_dicom_json(data[: pixels + header - 1], syntax, None, complete=False) is None
    assert parsed(data[: pixels + header], syntax, complete=False) == whole
    assert parsed(memoryview(data)[: pixels + header + 5].tobytes(), syntax, complete=False) == whole


def test_deflated_data_sets_are_read_and_bombs_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = make()
    file = part10(ds, DeflatedExplicitVRLittleEndian)
    found = parsed(data_set_of(file), DeflatedExplicitVRLittleEndian)
    assert found == parsed(data_set_of(part10(ds)), ExplicitVRLittleEndian)


def test_a_memo_changes_nothing_but_the_time() -> None:
    memo = Memo()
    for name in ("Müller^Änne", "Doe^Jane", "Müller^Änne"):
        for charset in ("ISO_IR 192", "ISO_IR 100"):
            data = data_set_of(part10(make(PatientName=name, SpecificCharacterSet=charset)))
            assert parsed(data, ExplicitVRLittleEndian, memo=memo) == parsed(data, ExplicitVRLittleEndian, memo=Memo())


def outcome(data: bytes, syntax: str, memo: Memo) -> bytes | str:
    try:
        return to_dicom_json(data, syntax, None, memo=memo) or b""
    except BadInstance as error:
        return str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(oracle.data_sets, min_size=1, max_size=4), oracle.encodings, st.integers(0, 60), st.booleans())
def test_what_was_seen_before_changes_nothing(
    sets: list[Dataset], encoding: tuple[bool, bool], cut: int, latin: bool
) -> None:
    for ds in sets[1:]:
        ds.SpecificCharacterSet = "ISO_IR 100" if latin else "ISO_IR 192"
    datas = [oracle.written(ds, implicit=encoding[0], big_endian=encoding[1]) for ds in sets]
    # Interleaved, repeated, cut and put out of order, so that stretches are learnt, met again, and met only in part.
    stream = [one for data in datas for one in (data, data, data[: len(data) - cut], datas[0], data + datas[0], data)]
    memo = Memo()
    for data in stream:
        assert outcome(data, SYNTAXES[encoding], memo) == outcome(data, SYNTAXES[encoding], Memo())


def test_no_number_is_still_json() -> None:
    data = struct.pack("<HH2sHddd", 0x0018, 0x9073, b"FD", 24, float("nan"), float("inf"), float("-inf"))
    assert parsed(data, ExplicitVRLittleEndian)["00189073"]["Value"] == ["NaN", "inf", "-inf"]


def test_group_2_and_the_command_set_are_not_told() -> None:
    data = struct.pack("<HH2sH4s", 0x0002, 0x0010, b"UI", 4, b"1.2\0") + struct.pack(
        "<HH2sH2s", 8, 0x60, b"CS", 2, b"CT"
    )
    assert parsed(data, ExplicitVRLittleEndian) == {"00080060": {"vr": "CS", "Value": ["CT"]}}


def test_elements_out_of_order_are_put_in_order_and_the_last_of_one_tag_holds() -> None:
    modality = [struct.pack("<HH2sH2s", 8, 0x60, b"CS", 2, value) for value in (b"CT", b"MR")]
    late = struct.pack("<HH2sH2s", 8, 0x08, b"CS", 2, b"A ")
    found = parsed(modality[0] + late + modality[1], ExplicitVRLittleEndian)
    assert list(found.items()) == [
        ("00080008", {"vr": "CS", "Value": ["A"]}),
        ("00080060", {"vr": "CS", "Value": ["MR"]}),
    ]


def test_a_sequence_hidden_in_un_is_read() -> None:
    inner = struct.pack("<HHL4s", 0x0008, 0x1150, 4, b"1.2\0")
    items = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    data = struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + items
    expected = {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": ["1.2"]}}]}
    assert parsed(data, ExplicitVRLittleEndian) == {"00091001": expected}
