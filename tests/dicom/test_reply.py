from __future__ import annotations

import json
from typing import Any

import pytest

from dicomnode.dicom.identifier import read_identifier
from dicomnode.dicom.reply import ReplyWriter, Wanted
from dicomnode.model.attributes import Level
from dicomnode.model.query import Found

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def fragment(**elements: Any) -> str:
    return json.dumps({tag[1:]: element for tag, element in elements.items()})


def name(text: str) -> dict[str, Any]:
    return {"vr": "PN", "Value": [{"Alphabetic": text}]}


def found(number: int, patient: str = "Doe^Jane") -> Found:
    return Found(
        str(number),
        fragment(t00100010=name(patient), t00100020={"vr": "LO", "Value": ["P1"]}),
        fragment(t0020000D={"vr": "UI", "Value": ["1.2"]}, t00081030={"vr": "LO"}),
        fragment(t0020000E={"vr": "UI", "Value": ["1.2.3"]}, t00080060={"vr": "CS", "Value": ["CT"]}),
        fragment(
            t00080018={"vr": "UI", "Value": [f"1.2.3.{number}"]},
            t00200013={"vr": "IS", "Value": [number]},
            t00280030={"vr": "DS", "Value": [0.5, 0.25]},
        ),
        transfer_syntax_uid=IMPLICIT,
    )


TAGS = {
    "00100010": "PN",
    "00200013": "IS",
    "00280030": "DS",
    "00081030": "LO",
    "00083002": "UI",
    "00400275": "SQ",
    "00091001": "LO",
    "00080005": "CS",
}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_row_holds_what_was_asked_in_order(syntax: str) -> None:
    writer = ReplyWriter(Wanted(Level.INSTANCE, TAGS, "NODE", syntax))
    for number in (1, 2, 3, 2):
        data = writer.write(found(number))
        told = read_identifier(data, syntax)
        assert list(told) == sorted(told)
        assert {tag: element.get("Value") for tag, element in told.items()} == {
            "00080018": [f"1.2.3.{number}"],
            "00080052": ["IMAGE"],
            "00080054": ["NODE"],
            "00080056": ["ONLINE"],
            "00081030": None,
            "00083002": [IMPLICIT],
            "00091001": None,
            "00100010": [{"Alphabetic": "Doe^Jane"}],
            "0020000D": ["1.2"],
            "0020000E": ["1.2.3"],
            "00200013": [number],
            "00280030": [0.5, 0.25],
            "00400275": [],
        }


def test_a_row_that_does_not_fit_is_told_in_utf_8_and_the_next_as_asked() -> None:
    writer = ReplyWriter(Wanted(Level.STUDY, {"00100010": "PN"}, "NODE", EXPLICIT, "ISO_IR 100"))
    for patient, charset in (("Müller", "ISO_IR 100"), ("Ωmega", "ISO_IR 192"), ("Doe", "ISO_IR 100")):
        told = read_identifier(writer.write(found(1, patient)), EXPLICIT)
        assert (told["00100010"], told["00080005"]["Value"]) == (name(patient), [charset])


@pytest.mark.parametrize("charset", ["", "latin one", "ISO IR 100"])
def test_without_a_known_character_set_ascii_needs_none(charset: str) -> None:
    writer = ReplyWriter(Wanted(Level.STUDY, {"00100010": "PN"}, "NODE", EXPLICIT, charset))
    assert "00080005" not in read_identifier(writer.write(found(1)), EXPLICIT)
    assert read_identifier(writer.write(found(1, "Ä")), EXPLICIT)["00080005"]["Value"] == ["ISO_IR 192"]


def test_counts() -> None:
    tags = dict.fromkeys(("00201200", "00201202", "00201204", "00201206", "00201208", "00201209"), "IS")
    row = Found("x", "{}", "{}", "{}", studies=2, series_count=3, instance_count=4, modalities=("CT", "SR"))
    for level, expected in (
        (Level.PATIENT, {"00201200": [2], "00201202": [3], "00201204": [4]}),
        (Level.STUDY, {"00201206": [3], "00201208": [4], "00080061": ["CT", "SR"], "00080062": None}),
        (Level.SERIES, {"00201209": [4]}),
        (Level.INSTANCE, {}),
    ):
        writer = ReplyWriter(Wanted(level, {**tags, "00080061": "CS", "00080062": "UI"}, "NODE", EXPLICIT))
        told = read_identifier(writer.write(row), EXPLICIT)
        counted = {tag: told[tag].get("Value") for tag in (*tags, "00080061", "00080062") if told[tag].get("Value")}
        assert counted == {tag: value for tag, value in expected.items() if value}


def test_a_value_that_was_odd_when_it_came_is_left_empty() -> None:
    row = Found("x", "{}", fragment(t0020000D={"vr": "UI", "Value": ["1"]}, t00101010={"vr": "AS", "Value": [7]}))
    told = read_identifier(ReplyWriter(Wanted(Level.STUDY, {"00101010": "AS"}, "N", EXPLICIT)).write(row), EXPLICIT)
    assert told["00101010"] == {"vr": "AS"}


def test_what_was_written_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.dicom.reply._MOST_WRITTEN", 3)
    writer = ReplyWriter(Wanted(Level.INSTANCE, TAGS, "NODE", EXPLICIT))
    rows = [writer.write(found(number)) for number in range(10)]
    assert [read_identifier(row, EXPLICIT)["00200013"]["Value"] for row in rows] == [[n] for n in range(10)]
    assert all(len(written) <= 3 for _, _, written in writer._first._last._tags)
