from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import RE_VALID_UID, CTImageStorage, HangingProtocolStorage

from dicomnode.dicom.uid import STORAGE_SOP_CLASSES, component, is_storage_sop_class, is_uid


@given(st.text("0123456789.", max_size=70))
def test_valid_is_what_pydicom_calls_valid(text: str) -> None:
    assert is_uid(text) == (len(text) <= 64 and re.fullmatch(RE_VALID_UID, text) is not None)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "1..2", "01.2", "1.02", "1.2.", "1.2\n", "1.2 ", "१.२", "1" * 65, "a.b"]
)
def test_what_is_no_uid(text: str) -> None:
    assert not is_uid(text)


def test_a_valid_uid_is_its_own_path_component() -> None:
    assert component("1.2.840.10008.1.2") == "1.2.840.10008.1.2"


@given(st.one_of(st.text(), st.sampled_from(["../../x", "/etc/x", "..\\x", ".", "..", "", "a\0b", "1.2 ", "\ud800"])))
def test_anything_else_becomes_a_safe_one(text: str) -> None:
    found = component(text)
    assert is_uid(found) or re.fullmatch("x[0-9a-f]{32}", found)
    assert (found == text) == is_uid(text)


def test_different_texts_have_different_components() -> None:
    assert len({component(text) for text in ("1.2 ", "1.2\0", "1.02", "A", "a")}) == 5


def test_storage_classes() -> None:
    assert is_storage_sop_class(CTImageStorage)
    assert is_storage_sop_class("1.2.840.10008.5.1.4.1.1.6")  # ultrasound, retired
    assert is_storage_sop_class("1.2.840.10008.5.1.4.34.7")  # RT beams delivery instruction
    verification, commitment, directory = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1", "1.2.840.10008.1.3.10"
    for other in (verification, commitment, directory, HangingProtocolStorage, "1.2.3"):
        assert not is_storage_sop_class(other)
    assert len(STORAGE_SOP_CLASSES) > 180
    assert all(is_uid(uid) for uid in STORAGE_SOP_CLASSES)
