from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom import charset
from dicomnode.dicom.values import ENCODERS, encode


def value_of(vr: str, raw: bytes, *, big_endian: bool = False, terms: bytes = b"") -> Any:
    found = json.loads("{" + encode(vr, raw, big_endian, charset.of(terms)) + "}")
    assert set(found) <= {"vr", "Value", "InlineBinary"}
    if found["vr"] != vr:
        assert found["vr"] == "UN"
        return found["InlineBinary"]
    return found.get("Value", found.get("InlineBinary"))


@pytest.mark.parametrize(
    ("vr", "raw", "value"),
    [
        ("CS", b"ORIGINAL\\PRIMARY ", ["ORIGINAL", "PRIMARY"]),
        ("CS", b"A\\\\B ", ["A", "", "B"]),
        ("AE", b" STORE ", ["STORE"]),
        ("UI", b"1.2.3\0", ["1.2.3"]),
        ("UI", b"1.2\\1.3\0", ["1.2", "1.3"]),
        ("DA", b"20240131", ["20240131"]),
        ("DA", b"  ", None),
        ("LO", b'say "\\\\ hi"\x01 ', ['say "', "", ' hi"\x01']),
        ("LT", b" a\\b\r\n ", [" a\\b\r\n"]),
        ("UR", b"https://a.b/c ", ["https://a.b/c"]),
        ("DS", b"1.50\\-2\\3e2 ", [1.5, -2, 300]),
        ("DS", b"+1.5\\.5\\5.\\007", [1.5, 0.5, 5, 7]),
        ("DS", b"1\\\\abc", [1, None, "abc"]),
        ("DS", b"nan\\inf\\1e999", ["nan", "inf", "1e999"]),
        ("DS", b"  ", None),
        ("IS", b" 12\\+3\\-04 ", [12, 3, -4]),
        ("IS", b"1.0\\1.5\\x\\", [1, "1.5", "x", None]),
        ("IS", b"9" * 500, ["9" * 500]),
        ("IS", b" ", None),
        ("PN", b"Doe^John^^^ ", [{"Alphabetic": "Doe^John^^^"}]),
        ("PN", b"A=B=C=D", [{"Alphabetic": "A", "Ideographic": "B", "Phonetic": "C"}]),
        ("PN", b"=B", [{"Alphabetic": "", "Ideographic": "B"}]),
        ("PN", b"A\\\\B", [{"Alphabetic": "A"}, None, {"Alphabetic": "B"}]),
        ("PN", b"==", None),
        ("US", b"\1\0", [1]),
        ("US", b"\1\0\2\0", [1, 2]),
        ("US", b"\1\0\2", "AQAC"),
        ("SS", b"\xff\xff", [-1]),
        ("AT", b"\x28\0\x10\0", ["00280010"]),
        ("AT", b"\x28\0\x10\0\x28\0\x11\0\1", ["00280010", "00280011"]),
        ("AT", b"\x28\0", "KAA="),
        ("FD", struct.pack("<d", 0.1), [0.1]),
        ("FL", struct.pack("<ff", 1.5, float("nan")), [1.5, "NaN"]),
        ("FL", b"abc", "YWJj"),
        ("OB", b"\0\1\2\3", "AAECAw=="),
        ("UN", b"ab", "YWI="),
    ],
)
def test_values(vr: str, raw: bytes, value: Any) -> None:
    assert value_of(vr, raw) == value


@pytest.mark.parametrize("vr", sorted(ENCODERS))
def test_an_empty_value_has_no_value(vr: str) -> None:
    assert value_of(vr, b"") is None


@pytest.mark.parametrize(("vr", "code"), [("US", "H"), ("SS", "h"), ("UL", "L"), ("SL", "l"), ("UV", "Q"), ("SV", "q")])
@given(data=st.data())
def test_integers_of_both_byte_orders(vr: str, code: str, data: st.DataObject) -> None:
    bits = struct.calcsize(">" + code) * 8
    low = -(2 ** (bits - 1)) if code.islower() else 0
    numbers = data.draw(st.lists(st.integers(low, low + 2**bits - 1), min_size=1, max_size=4))
    for order in "<>":
        raw = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        assert value_of(vr, raw, big_endian=order == ">") == numbers


@given(st.sampled_from(sorted(ENCODERS)), st.binary(max_size=40), st.booleans())
def test_whatever_the_bytes_it_is_json(vr: str, raw: bytes, big_endian: bool) -> None:
    for terms in (b"", b"ISO_IR 192", b"\\ISO 2022 IR 87"):
        value_of(vr, raw, big_endian=big_endian, terms=terms)


def test_text_is_read_in_its_character_set() -> None:
    assert value_of("LO", "Ärzte\\B".encode(), terms=b"ISO_IR 192") == ["Ärzte", "B"]
    assert value_of("PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", terms=b"\\ISO 2022 IR 87") == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}
    ]
    # In the default repertoire a byte above 7F is kept as what it most likely was.
    assert value_of("CS", b"\xc4 ", terms=b"ISO_IR 192") == ["Ä"]
