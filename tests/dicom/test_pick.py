from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.dicom import pick as module
from dicomnode.dicom.pick import ATTRIBUTES, SLOTS, pick
from dicomnode.dicom.scan import BIG, LITTLE, CutShort
from dicomnode.dicom.stretches import MAX_ELEMENT_BYTES, Stretches
from dicomnode.errors import BadInstance
from tests.corpus import make
from tests.dicom import oracle


def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {(implicit, big): Stretches[module.Stretch]() for implicit in (False, True) for big in (False, True)}
    monkeypatch.setattr(module, "_stretches", fresh)


def outcome(data: bytes, implicit: bool, big_endian: bool) -> object:
    try:
        found = pick(data, BIG if big_endian else LITTLE, implicit=implicit)
    except (CutShort, BadInstance) as error:
        return type(error), str(error)
    return found.found, found.too_long, found.ended


def test_slots_are_by_level_and_tag() -> None:
    order = [(attribute.level, attribute.tag) for attribute in ATTRIBUTES[1:]]
    assert order == sorted(order)
    assert all(ATTRIBUTES[slot].keyword == keyword for keyword, slot in SLOTS.items())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(oracle.data_sets, min_size=1, max_size=4), oracle.encodings, st.integers(0, 400))
def test_what_was_seen_before_changes_nothing(sets: list[Dataset], encoding: tuple[bool, bool], cut: int) -> None:
    implicit, big_endian = encoding
    datas = []
    for ds in sets:
        for element in make():
            if element.tag not in ds and element.tag < 0x7FE00000:
                ds.add(element)
        datas.append(oracle.written(ds, implicit=implicit, big_endian=big_endian))
    # Interleaved, repeated and cut, so that stretches are learnt, met again, and met only in part.
    stream = [one for data in datas for one in (data, data, data[: len(data) - cut], datas[0], data)]
    with pytest.MonkeyPatch.context() as patch:
        expected = []
        for data in stream:
            cold(patch)
            expected.append(outcome(data, implicit, big_endian))
        cold(patch)
        assert [outcome(data, implicit, big_endian) for data in stream] == expected


def test_stretches_are_learnt_and_used() -> None:
    with pytest.MonkeyPatch.context() as patch:
        cold(patch)
        ds = make()
        seen = []
        for number in range(4):
            ds.InstanceNumber = number
            pick(oracle.written(ds, implicit=False, big_endian=False), LITTLE, implicit=False)
            seen.append(len(module._stretches[False, False].known))
        # First nothing is old, then what repeats is learnt, then it is known and nothing is added.
        assert seen[0] == 0 < seen[1]
        assert seen[2] == seen[3]


def test_the_last_of_two_holds_and_too_long_is_none() -> None:
    patient = struct.pack("<HH2sH2s", 0x10, 0x20, b"LO", 2, b"P1"), struct.pack("<HH2sH2s", 0x10, 0x20, b"LO", 2, b"P2")
    slot = SLOTS["PatientID"]
    assert pick(patient[0] + patient[1], LITTLE, implicit=False).found[slot] == patient[1]
    long = struct.pack("<HH2sH", 0x10, 0x20, b"LO", 20_000) + bytes(20_000)
    found = pick(patient[0] + long, LITTLE, implicit=False)
    assert (found.found[slot], found.too_long) == (None, [slot])


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.dicom.stretches._MAX_STRETCHES", 8)
    monkeypatch.setattr("dicomnode.dicom.stretches._MAX_SEEN", 8)
    stretches: Stretches[int] = Stretches()
    for number in range(100):
        stretches.learn(b"%08d" % number, number)
        assert not stretches.is_old(b"%08d" % number)
        assert stretches.is_old(b"%08d" % number)
        assert len(stretches.known) == len(stretches.sizes) <= 8
        assert len(stretches.seen) <= 8
    stretches.learn(bytes(5000), 1)
    assert bytes(5000) not in stretches.known
    assert not stretches.is_old(bytes(MAX_ELEMENT_BYTES + 1))
    assert not stretches.is_old(bytes(MAX_ELEMENT_BYTES + 1))


def test_what_repeats_after_hundreds_of_data_sets_only_is_not_old() -> None:
    stretches: Stretches[int] = Stretches()
    assert not stretches.is_old(b"varies")
    stretches.turn += 256
    assert stretches.is_old(b"varies")
    stretches.turn += 257
    assert not stretches.is_old(b"varies")
    stretches.turn += 1
    assert stretches.is_old(b"varies")
