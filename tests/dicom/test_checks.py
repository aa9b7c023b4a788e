from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom import charset, checks
from dicomnode.dicom.checks import fault


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("UI", b"1.2.3\0"),
        ("UI", b"1" + b".2" * 31 + b"3\0"),
        ("UI", b"1.2\\1.3"),
        ("DA", b"20240131"),
        ("DA", b"20240131  "),
        ("TM", b"10"),
        ("TM", b"101112.123 "),
        ("TM", b"235960"),
        ("IS", b" -12 "),
        ("IS", b"1\\2"),
        ("CS", b"ABC_1 2"),
        ("CS", b"A\\" * 50 + b"B"),
        ("AE", b"x" * 16),
        ("SH", "ü".encode() * 16),
        ("LO", b"x" * 64 + b"\\" + b"y" * 64),
        ("LT", b"x" * 5000),
        ("ZZ", b"x" * 5000),
    ],
)
def test_good_values(vr: str, value: bytes) -> None:
    assert fault("Keyword", vr, value, charset.of(b"ISO_IR 192")) == ""


@pytest.mark.parametrize(
    ("vr", "value", "sentence"),
    [
        ("UI", b"1.02", "Keyword has a value that is no valid UI"),
        ("UI", b"1." + b"2" * 64, "Keyword has a value longer than 64 characters"),
        ("DA", b"2024.01.31", "Keyword has a value that is no valid DA"),
        ("DA", b"20241331", "Keyword has a value that is no valid DA"),
        ("TM", b"10:11:12", "Keyword has a value that is no valid TM"),
        ("TM", b"250000", "Keyword has a value that is no valid TM"),
        ("IS", b"1.5", "Keyword has a value that is no valid IS"),
        ("IS", b"1234567890123", "Keyword has a value longer than 12 characters"),
        ("CS", b"lower", "Keyword has a value that is no valid CS"),
        ("AE", b"x" * 17, "Keyword has a value longer than 16 characters"),
        ("SH", b"a\\" + b"x" * 17, "Keyword has a value longer than 16 characters"),
        ("LO", "ü".encode() * 65, "Keyword has a value longer than 64 characters"),
    ],
)
def test_bad_values(vr: str, value: bytes, sentence: str) -> None:
    assert fault("Keyword", vr, value, charset.of(b"ISO_IR 192")) == sentence


@given(st.sampled_from(["UI", "DA", "TM", "IS", "CS", "AE", "SH", "LO"]), st.text("012.A \\\0x", max_size=80))
def test_what_is_surely_good_is_good_by_the_closer_look_too(vr: str, text: str) -> None:
    value = text.encode()
    quick = fault("Keyword", vr, value, charset.DEFAULT)
    with pytest.MonkeyPatch.context() as patch:
        never = re.compile(b"(?!)")
        patch.setattr(checks, "_SURELY_GOOD", dict.fromkeys(checks._SURELY_GOOD, never))
        assert fault("Keyword", vr, value, charset.DEFAULT) == quick
