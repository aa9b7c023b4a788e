"""Data sets whose sequences are nested deeper than anyone reads later are refused, wherever the sequence stands."""

from __future__ import annotations

import struct
import zlib

import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.dicom import nesting
from dicomnode.dicom.header import read_header
from dicomnode.dicom.scan import BIG, LITTLE
from dicomnode.errors import BadInstance
from tests.attacks.nested import nested, with_element
from tests.corpus import data_set_of, make, part10

# Passed over on the way, indexed itself, behind all that is indexed, private.
PLACES = {"passed over": 0x00081140, "indexed": 0x00400275, "behind": 0x52009229, "private": 0x00991001}


def object_with(depth: int, tag: int, syntax: UID, *, undefined: bool) -> bytes:
    implicit = syntax == ImplicitVRLittleEndian
    element = nested(depth, tag=tag, implicit=implicit, undefined=undefined)
    return with_element(data_set_of(part10(make(), syntax)), element, implicit=implicit)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("tag", PLACES.values(), ids=PLACES)
def test_sequences_may_be_nested_so_deep_and_no_deeper(tag: int, syntax: UID, undefined: bool, complete: bool) -> None:
    for depth in (1, 40, 64):
        assert read_header(object_with(depth, tag, syntax, undefined=undefined), syntax, complete=complete)
    for depth in (65, 66, 200, 300, 10_000):
        with pytest.raises(BadInstance, match="nested deeper than 64"):
            read_header(object_with(depth, tag, syntax, undefined=undefined), syntax, complete=complete)


@pytest.mark.parametrize("tag", PLACES.values(), ids=PLACES)
def test_a_deflated_object_is_looked_into(tag: int) -> None:
    for depth, fits in ((64, True), (300, False)):
        plain = object_with(depth, tag, ExplicitVRLittleEndian, undefined=False)
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(plain) + deflater.flush()
        if fits:
            assert read_header(data, DeflatedExplicitVRLittleEndian)
        else:
            with pytest.raises(BadInstance, match="nested deeper"):
                read_header(data, DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("undefined", [True, False])
def test_big_endian(undefined: bool) -> None:
    identity = data_set_of(part10(make(), ExplicitVRBigEndian))
    # Behind the end of the pixel data nothing is looked at, so the sequence leads.
    for depth, fits in ((64, True), (65, False), (300, False)):
        data = nested(depth, tag=0x00041220, undefined=undefined, big=True) + identity
        if fits:
            assert read_header(data, ExplicitVRBigEndian)
        else:
            with pytest.raises(BadInstance, match="nested deeper"):
                read_header(data, ExplicitVRBigEndian)


def test_mixed_lengths_do_not_hide_the_depth() -> None:
    inner = nested(40, undefined=True)
    for depth, fits in ((24, True), (25, False)):
        data = nested_around(inner, depth)
        if fits:
            nesting.check_stretch(data, 0, len(data), LITTLE)
        else:
            with pytest.raises(BadInstance, match="nested deeper"):
                nesting.check_stretch(data, 0, len(data), LITTLE)


def nested_around(element: bytes, depth: int) -> bytes:
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(element)) + element
        element = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
    return element


def test_many_items_side_by_side_are_not_deep() -> None:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 8) + struct.pack("<HHL", 0x0008, 0x1150, 0)
    loose = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    many = (item + loose) * 10_000
    nesting.check_stretch(many, 0, len(many), LITTLE)
    fragments = struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"\xfe\xff\x00\xe0"
    nesting.check_stretch(fragments * 1000, 0, len(fragments) * 1000, LITTLE)


def test_the_look_has_an_end() -> None:
    item = struct.pack(">HHL", 0xFFFE, 0xE000, 0)
    deep = struct.pack(">HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) * 100
    with pytest.raises(BadInstance):
        nesting.check_stretch(item * 30_000 + deep, 0, 240_800, BIG)
    nesting.check_stretch(item * 40_000 + deep, 0, 320_800, BIG)


def test_a_deep_sequence_that_is_not_all_here_is_seen() -> None:
    plain = data_set_of(part10(make()))
    whole = with_element(plain, nested(200_000, tag=0x52009229))
    with pytest.raises(BadInstance, match="nested deeper"):
        read_header(whole[:200_000], ExplicitVRLittleEndian, complete=False)
