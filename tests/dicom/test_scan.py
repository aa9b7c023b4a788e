from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.dicom.scan import (
    BIG,
    LITTLE,
    PIXEL_DATA,
    CutShort,
    Element,
    Walk,
    is_padding,
    looks_implicit,
)
from dicomnode.dicom.vr import public
from dicomnode.errors import BadInstance
from tests.dicom import oracle

Tree = list[tuple[int, Any]]


def explicit(group: int, element: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH2sH", group, element, vr, len(value)) + value


def tagged(group: int, element: int, length: int, order: str = "<") -> bytes:
    return struct.pack(order + "HHL", group, element, length)


def walked(data: bytes, *, implicit: bool = False, big_endian: bool = False, to_pixels: bool = False) -> list[Element]:
    return Walk(data, BIG if big_endian else LITTLE, to_pixels=to_pixels).data_set(0, len(data), implicit, 0)[0]


def tree(data: bytes, walk: Walk, elements: list[Element], implicit: bool, depth: int = 0) -> Tree:
    found: Tree = []
    for tag, vr, at, length, items, undefined in elements:
        if items is None and (public(tag) if vr is None else vr) != "SQ":
            found.append((tag, data[at : at + length - 8 * undefined]))
            continue
        inside = walk.items(at, at + length, implicit, depth)[0] if items is None else items
        found.append((tag, [tree(data, walk, item, flag, depth + 1) for flag, item in inside]))
    return found


def pydicoms(ds: Dataset) -> Tree:
    found: Tree = []
    for tag in ds.keys():  # noqa: SIM118 -- iterating a data set converts its elements
        raw = ds.get_item(tag)
        if (raw.VR or public(tag)) == "SQ":
            found.append((int(tag), [pydicoms(item) for item in ds[tag].value]))
        else:
            found.append((int(tag), raw.value or b""))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(oracle.data_sets, oracle.encodings)
def test_elements_are_those_that_pydicom_finds(ds: Dataset, encoding: tuple[bool, bool]) -> None:
    implicit, big_endian = encoding
    data = oracle.written(ds, implicit=implicit, big_endian=big_endian)
    walk = Walk(data, BIG if big_endian else LITTLE)
    found, after = walk.data_set(0, len(data), implicit, 0)
    assert after == -1
    assert tree(data, walk, found, implicit) == pydicoms(
        oracle.read_back(data, implicit=implicit, big_endian=big_endian)
    )


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_noise_ends_in_a_result_or_a_refusal(noise: bytes, implicit: bool, big_endian: bool) -> None:
    try:
        found = walked(noise, implicit=implicit, big_endian=big_endian)
    except (CutShort, BadInstance):
        return
    assert all(0 <= at <= at + length <= len(noise) for _, _, at, length, _, _ in found)


def test_a_long_header_and_a_short_one() -> None:
    data = explicit(8, 0x60, b"CS", b"CT") + explicit(0x42, 0x11, b"OB", b"") + struct.pack("<L", 4) + b"%PDF"
    assert walked(data) == [
        (0x00080060, "CS", 8, 2, None, False),
        (0x00420011, "OB", 22, 4, None, False),
    ]


def test_an_unknown_vr_has_a_short_length_and_no_vr_an_implicit_one() -> None:
    data = explicit(8, 0x60, b"ZZ", b"ab") + tagged(8, 0x70, 4) + b"abcd"
    assert walked(data) == [(0x00080060, "UN", 8, 2, None, False), (0x00080070, None, 18, 4, None, False)]


@pytest.mark.parametrize(
    ("data", "tag"),
    [
        (explicit(8, 0x60, b"CS", b"CT")[:-1], 0x00080060),
        (explicit(8, 0x60, b"CS", b"CT") + b"\x08", None),
        (explicit(0x42, 0x11, b"OB", b""), None),
        (explicit(0x42, 0x11, b"OB", b"") + struct.pack("<L", 0x7FFFFFFF), 0x00420011),
        (explicit(8, 0x1140, b"SQ", b"") + struct.pack("<L", 0xFFFFFFFF), None),
    ],
)
def test_a_cut_is_told_with_the_tag(data: bytes, tag: int | None) -> None:
    with pytest.raises(CutShort) as caught:
        walked(data)
    assert caught.value.tag == tag
    assert str(caught.value) == ("cut short" if tag is None else f"cut short in ({tag >> 16:04X},{tag & 0xFFFF:04X})")


def test_zeros_at_the_end_are_padding() -> None:
    assert len(walked(explicit(8, 0x60, b"CS", b"CT") + bytes(5))) == 1
    assert is_padding(b"ab\0\0", 2)
    assert not is_padding(b"ab\0\1", 2)
    assert not is_padding(bytes(20), 2)


def test_an_element_may_not_run_over_its_item() -> None:
    item = explicit(8, 0x1150, b"UI", b"1.2\0")
    data = explicit(8, 0x1140, b"SQ", b"") + struct.pack("<L", 0xFFFFFFFF) + tagged(0xFFFE, 0xE000, len(item) - 2)
    with pytest.raises(BadInstance, match=r"\(0008,1150\) runs over the end of its item"):
        walked(data + item + tagged(0xFFFE, 0xE0DD, 0))


def test_only_items_may_stand_in_a_sequence() -> None:
    data = explicit(8, 0x1140, b"SQ", b"") + struct.pack("<L", 0xFFFFFFFF) + explicit(8, 0x60, b"CS", b"CT")
    with pytest.raises(BadInstance, match="stands where an item should"):
        walked(data)


def test_forgotten_and_superfluous_item_delimiters_are_forgiven() -> None:
    head = explicit(8, 0x1140, b"SQ", b"") + struct.pack("<L", 0xFFFFFFFF)
    inner = explicit(8, 0x1150, b"UI", b"1.2\0")
    end = tagged(0xFFFE, 0xE0DD, 0)
    forgotten = head + tagged(0xFFFE, 0xE000, 0xFFFFFFFF) + inner + end
    superfluous = head + tagged(0xFFFE, 0xE000, len(inner)) + inner + tagged(0xFFFE, 0xE00D, 0) + end
    for data in (forgotten, superfluous):
        (element,) = walked(data)
        assert element[4] == [(False, [(0x00081150, "UI", 28, 4, None, False)])]


def test_implicit_items_within_an_explicit_data_set() -> None:
    inner = tagged(8, 0x1150, 4) + b"1.2\0"
    data = explicit(9, 0x1001, b"UN", b"") + struct.pack("<L", 0xFFFFFFFF)
    data += tagged(0xFFFE, 0xE000, len(inner)) + inner + tagged(0xFFFE, 0xE0DD, 0)
    (element,) = walked(data)
    assert element[1] == "SQ"
    assert element[4] == [(True, [(0x00081150, None, 28, 4, None, False)])]


def test_encapsulated_pixel_data_ends_at_its_delimiter() -> None:
    head = explicit(0x7FE0, 0x10, b"OB", b"") + struct.pack("<L", 0xFFFFFFFF)
    fragments = tagged(0xFFFE, 0xE000, 0) + tagged(0xFFFE, 0xE000, 4) + b"\xfe\xff\xdd\xe0"
    tail = explicit(0xFFFC, 0xFFFC, b"OB", b"") + struct.pack("<L", 2) + b"ab"
    found = walked(head + fragments + tagged(0xFFFE, 0xE0DD, 0) + tail)
    assert [(element[0], element[3]) for element in found] == [(0x7FE00010, 28), (0xFFFCFFFC, 2)]
    with pytest.raises(CutShort):
        walked(head + fragments)
    assert walked(head + fragments, to_pixels=True) == [(0x7FE00010, "OB", 12, 0xFFFFFFFF, None, True)]


def test_a_wrong_fragment_length_does_no_harm_while_the_delimiter_comes() -> None:
    head = explicit(0x7FE0, 0x10, b"OB", b"") + struct.pack("<L", 0xFFFFFFFF)
    data = head + tagged(0xFFFE, 0xE000, 2) + b"abcd" + bytes(8) + tagged(0xFFFE, 0xE0DD, 0)
    assert walked(data)[0][3] == len(data) - 12


def test_an_unknown_element_of_undefined_length_is_a_sequence_if_items_follow() -> None:
    items = tagged(0xFFFE, 0xE000, 0) + tagged(0xFFFE, 0xE0DD, 0)
    (element,) = walked(tagged(9, 0x1001, 0xFFFFFFFF) + items, implicit=True)
    assert (element[1], element[4]) == ("SQ", [(True, [])])


def test_the_number_of_elements_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.dicom.scan.MAX_ELEMENTS", 10)
    item = tagged(0xFFFE, 0xE000, 20) + explicit(8, 0x60, b"CS", b"CT") * 2
    for data in (
        explicit(8, 0x60, b"CS", b"CT") * 11,
        explicit(8, 0x1140, b"SQ", b"") + struct.pack("<L", 0xFFFFFFFF) + item * 6 + tagged(0xFFFE, 0xE0DD, 0),
    ):
        with pytest.raises(BadInstance, match="more than 10 elements"):
            walked(data)


def test_after_passes_over_any_element() -> None:
    data = explicit(8, 0x60, b"CS", b"CT")
    data += explicit(8, 0x1140, b"SQ", b"") + struct.pack("<L", 0xFFFFFFFF) + tagged(0xFFFE, 0xE0DD, 0)
    end = len(data)
    data += tagged(0xFFFE, 0xE00D, 0)
    walk = Walk(memoryview(data), LITTLE)
    assert walk.after(0, implicit=False) == 10
    assert walk.after(10, implicit=False) == end
    assert walk.after(end, implicit=False) == -1
    with pytest.raises(CutShort):
        walk.after(len(data) - 4, implicit=False)


def test_how_implicit_vr_is_told() -> None:
    assert not looks_implicit(explicit(8, 0x60, b"CS", b"CT"), 0, 10, assumed=True)
    assert looks_implicit(tagged(8, 0x60, 2), 0, 8, assumed=False)
    assert looks_implicit(b"", 0, 0, assumed=True)
    assert sorted(PIXEL_DATA) == [0x7FE00008, 0x7FE00009, 0x7FE00010]
