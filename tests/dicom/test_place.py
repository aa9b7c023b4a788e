from __future__ import annotations

import struct

import pytest
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import dictionary_VR

from dicomnode.dicom import vr
from dicomnode.dicom.place import Place
from dicomnode.dicom.scan import LITTLE, Walk


def implicit(*elements: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value for tag, value in elements)


def vrs(data: bytes, parent: Place | None = None) -> dict[int, str]:
    elements, _ = Walk(data, LITTLE).data_set(0, len(data), True, 0)
    place = Place(data, elements, implicit=True, big=False, parent=parent)
    return {element[0]: place.vr(element) for element in elements}


def test_every_attribute_of_the_dictionary_has_its_vr() -> None:
    for tag in DicomDictionary:
        assert vr.public(tag) == dictionary_VR(tag)
    for mask in RepeatersDictionary:
        tag = int(mask.replace("x", "2"), 16)
        assert vr.public(tag) == dictionary_VR(tag)
    assert vr.public(0x00080000) == "UL"
    assert vr.public(0x00090000) is None
    assert vr.public(0x00081FFF) is None


@pytest.mark.parametrize(("signed", "expected"), [(None, "US"), (0, "US"), (1, "SS")])
def test_us_or_ss_is_told_by_the_pixels_also_from_within(signed: int | None, expected: str) -> None:
    padding = (0x00280120, b"\1\0")
    around = implicit(*([] if signed is None else [(0x00280103, bytes([signed, 0]))]), padding)
    assert vrs(around)[0x00280120] == expected
    elements, _ = Walk(around, LITTLE).data_set(0, len(around), True, 0)
    parent = Place(around, elements, implicit=True, big=False)
    assert vrs(implicit(padding), parent) == {0x00280120: expected}


def test_a_lut_of_one_entry_is_us() -> None:
    for entries, expected in ((1, "US"), (256, "OW")):
        descriptor = struct.pack("<HHH", entries, 0, 16)
        assert vrs(implicit((0x00283002, descriptor), (0x00283006, b"\0\0")))[0x00283006] == expected


def test_implicit_pixels_and_overlays_are_words() -> None:
    found = vrs(implicit((0x60003000, b"\0\0"), (0x7FE00010, b"\0\0")))
    assert found == {0x60003000: "OW", 0x7FE00010: "OW"}


def test_private_attributes_are_known_by_their_creator() -> None:
    creator = (0x00190010, b"SIEMENS CT VA0  COAD")
    found = vrs(implicit(creator, (0x00191020, b"1 "), (0x00191121, b"1 ")))
    assert found[0x00190010] == "LO"
    assert found[0x00191020] == vr.private(0x00191020, "SIEMENS CT VA0  COAD") != "UN"
    assert found[0x00191121] == "UN"


def explicit_un(tag: int, value: bytes) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"UN", 0, len(value)) + value


def test_un_is_replaced_where_the_attribute_is_known() -> None:
    for tag, size, expected in ((0x00100010, 4, "PN"), (0x00100010, 70_000, "UN"), (0x00091001, 4, "UN")):
        data = explicit_un(tag, b"A" * size)
        elements, _ = Walk(data, LITTLE).data_set(0, len(data), False, 0)
        assert Place(data, elements, implicit=False, big=False).vr(elements[0]) == expected


@pytest.mark.parametrize(("bits", "expected"), [(8, "OB"), (16, "OW")])
def test_pixels_hidden_in_un_are_told_by_their_bits(bits: int, expected: str) -> None:
    data = struct.pack("<HH2sHH", 0x28, 0x100, b"US", 2, bits) + explicit_un(0x7FE00010, b"abcd")
    elements, _ = Walk(data, LITTLE).data_set(0, len(data), False, 0)
    assert Place(data, elements, implicit=False, big=False).vr(elements[1]) == expected
