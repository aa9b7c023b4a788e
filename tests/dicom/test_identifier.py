from __future__ import annotations

import json
import logging
import warnings
from io import BytesIO
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.dicom.identifier import MAX_BYTES, UTF_8, read_identifier, write_identifier
from dicomnode.errors import BadRequest
from tests.corpus import corpus_files, needs_corpus
from tests.dicom import oracle

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
SYNTAXES = {(True, False): IMPLICIT, (False, False): EXPLICIT, (False, True): BIG}
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def name(text: str) -> dict[str, Any]:
    return {"vr": "PN", "Value": [dict(zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False))]}


def inline(ds: Dataset) -> dict[str, Any]:
    """Return what pydicom makes of `ds` with every binary value inline."""
    found: dict[str, Any] = oracle.normal(json.loads(json.dumps(ds.to_json_dict(1 << 30, lambda _: ""))))
    return found


PRIVATE_SEQUENCE = "00091002"  # in implicit VR nothing says that it is one


def nameless(told: Any) -> Any:
    """Return JSON without the character sets, of which in an item only the effect is kept."""
    if isinstance(told, list):
        return [nameless(one) for one in told]
    if isinstance(told, dict):
        return {key: nameless(one) for key, one in told.items() if key not in ("00080005", PRIVATE_SEQUENCE)}
    return told


@given(oracle.data_sets, oracle.encodings)
def test_a_data_set_reads_as_pydicom_reads_it_and_writes_back(ds: Dataset, encoding: tuple[bool, bool]) -> None:
    implicit, big_endian = encoding
    data = oracle.written(ds, implicit=implicit, big_endian=big_endian)
    syntax = SYNTAXES[encoding]
    try:
        expected = inline(oracle.read_back(data, implicit=implicit, big_endian=big_endian))
    except (ValueError, TypeError, AttributeError, NotImplementedError):
        return  # pydicom itself fails
    told = read_identifier(data, syntax)
    assert oracle.normal(told) == expected
    again = write_identifier(told, syntax, UTF_8)
    assert nameless(read_identifier(again, syntax)) == nameless(told)
    theirs = inline(oracle.read_back(again, implicit=implicit, big_endian=big_endian))
    assert nameless(theirs) == nameless(expected)


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("", "Doe^Jane"),
        ("ISO_IR 100", "Müller^Änne"),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("ISO_IR 144", "Люкceмбypг"),  # noqa: RUF001 -- as in PS3.5 annex H
        ("ISO_IR 192", "王^小东=山田=홍"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东"),
        ("\\ISO 2022 IR 100\\ISO 2022 IR 144", "Müller^Люкс"),
    ],
)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_names_in_every_character_set(charset: str, text: str, syntax: str) -> None:
    data = write_identifier({"00100010": name(text), "00080005": {"vr": "CS", "Value": ["x"]}}, syntax, charset)
    told = read_identifier(data, syntax)
    assert told["00100010"] == name(text)
    assert "\\".join(told.get("00080005", {}).get("Value", [""])) == charset
    if "58" not in charset:  # pydicom leaves the escape sequences of ISO-IR 58 in the text
        ds = oracle.read_back(data, implicit=syntax == IMPLICIT, big_endian=syntax == BIG)
        ds.decode()
        assert str(ds.PatientName) == text


@pytest.mark.parametrize("charset", ["", "ISO_IR 100", "\\ISO 2022 IR 87", "ISO_IR 13", "nonsense"])
def test_what_a_character_set_cannot_hold_comes_in_utf_8(charset: str) -> None:
    told = read_identifier(write_identifier({"00100010": name("Ελλάς^ß=홍")}, EXPLICIT, charset), EXPLICIT)
    assert told == {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}, "00100010": name("Ελλάς^ß=홍")}


@needs_corpus
@pytest.mark.parametrize("path", corpus_files("charsets"), ids=lambda path: path.name)
def test_names_of_the_world(path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        charset = ds.get("SpecificCharacterSet", "")
        charset = charset if isinstance(charset, str) else "\\".join(charset)
        text = str(ds.get("PatientName", ""))
    told = read_identifier(write_identifier({"00100010": name(text)}, IMPLICIT, charset or ""), IMPLICIT)
    assert told["00100010"] == (name(text) if text else {"vr": "PN", "Value": [{"Alphabetic": ""}]} | told["00100010"])


def test_a_list_too_long_for_a_short_value() -> None:
    uids = [f"1.2.840.{number:060}" for number in range(2000)]
    for syntax in (IMPLICIT, EXPLICIT, BIG):
        data = write_identifier({"00080058": {"vr": "UI", "Value": uids}}, syntax)
        assert read_identifier(data, syntax)["00080058"] == {"vr": "UI", "Value": uids}


def test_numbers_keep_to_their_lengths() -> None:
    told: dict[str, dict[str, Any]] = {
        "00180050": {"vr": "DS", "Value": [1 / 3, 1e-300, 5, None, "odd"]},
        "00200013": {"vr": "IS", "Value": [7, 7.0, "x", None]},
    }
    ds = pydicom.filereader.read_dataset(BytesIO(write_identifier(told, EXPLICIT)), False, True)
    texts = ds.get_item(0x00180050).value.decode().split("\\")
    assert all(len(text) <= 16 for text in texts)
    assert texts[1:] == ["1e-300", "5", "", "odd"]
    assert float(texts[0]) == pytest.approx(1 / 3)
    assert ds.get_item(0x00200013).value == b"7\\7\\x\\"


@pytest.mark.parametrize("syntax", [DEFLATED, JPEG, "1.2.3"])
def test_compressed_ones_are_refused(syntax: str) -> None:
    with pytest.raises(BadRequest):
        read_identifier(b"", syntax)
    with pytest.raises(BadRequest):
        write_identifier({}, syntax)


@pytest.mark.parametrize(
    "element",
    [
        {},
        {"vr": "XX", "Value": [1]},
        {"vr": "US", "Value": [-1]},
        {"vr": "US", "Value": ["secret"]},
        {"vr": "PN", "Value": [1]},
        {"vr": "LO", "Value": [{"Alphabetic": "secret"}]},
        {"vr": "IS", "Value": [True]},
        {"vr": "IS", "Value": [[1]]},
        {"vr": "AT", "Value": ["secret"]},
        {"vr": "SQ", "Value": ["secret"]},
        {"vr": "OB", "InlineBinary": "s"},
        {"vr": "FD", "Value": [[]]},
    ],
)
def test_json_that_is_no_value(element: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as told:
        write_identifier({"00091001": element}, EXPLICIT)
    assert "secret" not in str(told.value)


def test_too_long_and_too_deep() -> None:
    with pytest.raises(BadRequest):
        read_identifier(bytes(MAX_BYTES + 1), EXPLICIT)
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"00400275": {"vr": "SQ", "Value": [deep]}}
    with pytest.raises(BadRequest):
        write_identifier(deep, EXPLICIT)
    nested = b"".join(b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(300))
    with pytest.raises(BadRequest):
        read_identifier(nested, EXPLICIT)


@given(st.binary(max_size=300), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_any_bytes_are_read_or_refused(data: bytes, syntax: str) -> None:
    try:
        told = read_identifier(data, syntax)
    except BadRequest:
        return
    assert isinstance(told, dict)


@given(oracle.data_sets, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5), oracle.encodings)
def test_a_spoilt_identifier_is_read_or_refused(
    ds: Dataset, spoilt: list[tuple[int, int]], encoding: tuple[bool, bool]
) -> None:
    implicit, big_endian = encoding
    data = bytearray(oracle.written(ds, implicit=implicit, big_endian=big_endian))
    for place, value in spoilt:
        if place < len(data):
            data[place] = value
    try:
        told = read_identifier(bytes(data), SYNTAXES[encoding])
        again = write_identifier(told, SYNTAXES[encoding], UTF_8)
    except BadRequest:
        return
    assert isinstance(read_identifier(again, SYNTAXES[encoding]), dict)
