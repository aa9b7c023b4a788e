from __future__ import annotations

import json

import pytest

from dicomnode.dicom.answer import compose, select
from dicomnode.model.attributes import Level
from dicomnode.model.query import Found

PATIENT = '{"00100010":{"vr":"PN","Value":[{"Alphabetic":"Müller"}]},"00104000":{"vr":"LT","Value":["c"]}}'
STUDY = '{"00080020":{"vr":"DA"},"0020000D":{"vr":"UI","Value":["1.2"]}}'
SERIES = '{"00080060":{"vr":"CS","Value":["CT"]},"0020000E":{"vr":"UI","Value":["1.3"]}}'
INSTANCE = '{"00080018":{"vr":"UI","Value":["1.4"]},"00280010":{"vr":"US","Value":[8]}}'
FOUND = Found(
    "", PATIENT, STUDY, SERIES, INSTANCE, ("CT",), ("1.9",), 1, 2, 3, transfer_syntax_uid="1.2.840.10008.1.2.1"
)


def answer(level: Level, *include: str, above: tuple[Level, ...] = (), everything: bool = False) -> dict[str, object]:
    selection = select(level, include, above=above, everything=everything)
    found: dict[str, object] = json.loads(compose(FOUND, level, selection, "http://h/dicomweb"))
    assert list(found) == sorted(found)
    return found


@pytest.mark.parametrize(
    ("level", "url", "counts"),
    [
        (Level.PATIENT, "", {"00201200": 1}),
        (Level.STUDY, "/studies/1.2", {"00201206": 2, "00201208": 3}),
        (Level.SERIES, "/studies/1.2/series/1.3", {"00201209": 3}),
        (Level.INSTANCE, "/studies/1.2/series/1.3/instances/1.4", {}),
    ],
)
def test_what_every_level_has(level: Level, url: str, counts: dict[str, int]) -> None:
    found = answer(level)
    assert found["00081190"] == {"vr": "UR", "Value": [f"http://h/dicomweb{url}"]}
    assert found["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert {tag: {"vr": "IS", "Value": [count]} for tag, count in counts.items()}.items() <= found.items()


def test_known_to_be_empty_is_empty_and_unknown_is_absent() -> None:
    found = answer(Level.STUDY)
    assert found["00080020"] == {"vr": "DA"}
    assert "00080030" not in found


def test_only_what_is_asked() -> None:
    assert "00104000" not in answer(Level.STUDY)
    assert answer(Level.STUDY, "00104000")["00104000"] == {"vr": "LT", "Value": ["c"]}
    assert "00100010" not in answer(Level.SERIES)
    assert answer(Level.SERIES, above=(Level.STUDY,))["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller"}]}
    assert {"00104000", "00080061", "00080062"} <= answer(Level.STUDY, everything=True).keys()


@pytest.mark.parametrize("uid", ['1"}<>', "a/b", "\\", "é", " 1"])
def test_odd_uids_make_json_and_urls_all_the_same(uid: str) -> None:
    odd = Found("", "{}", json.dumps({"0020000D": {"vr": "UI", "Value": [uid]}}, separators=(",", ":")))
    text = compose(odd, Level.STUDY, select(Level.STUDY), "")
    url = json.loads(text)["00081190"]["Value"][0]
    assert url.startswith("/studies/")
    assert not set('"<>\\ ') & set(url)
    assert "/" not in url.removeprefix("/studies/")
