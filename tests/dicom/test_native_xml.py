from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from dicomnode.dicom.native_xml import to_native_xml
from dicomnode.errors import BadInstance

NS = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def parse(attributes: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(to_native_xml(attributes))


def test_every_kind_of_content() -> None:
    root = parse(
        {
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane^^Dr", "Ideographic": "山田"}]},
            "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
            "00281050": {"vr": "DS", "Value": [40, -1.5]},
            "00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}, {}]},
            "7FE00010": {"vr": "OW", "BulkDataURI": "http://x/?a=1&b=2"},
            "00420011": {"vr": "OB", "InlineBinary": "AAE="},
            "00100020": {"vr": "LO"},
        }
    )
    assert root.tag == NS + "NativeDicomModel"
    attributes = list(root)
    assert [a.get("tag") for a in attributes] == sorted(a.get("tag") or "" for a in attributes)
    by_keyword = {a.get("keyword"): a for a in attributes}
    assert [v.text for v in by_keyword["WindowCenter"]] == ["40", "-1.5"]
    assert [v.get("number") for v in by_keyword["WindowCenter"]] == ["1", "2"]
    name = by_keyword["PatientName"][0]
    assert name.tag == NS + "PersonName"
    assert [(p.tag, p.text) for p in name[0]] == [
        (NS + "FamilyName", "Doe"),
        (NS + "GivenName", "Jane"),
        (NS + "NamePrefix", "Dr"),
    ]
    assert name[1].tag == NS + "Ideographic"
    items = by_keyword["ReferencedSOPSequence"]
    assert [item.tag for item in items] == [NS + "Item"] * 2
    assert items[0][0][0].text == "1.2"
    assert by_keyword["PixelData"][0].get("uri") == "http://x/?a=1&b=2"
    assert by_keyword["EncapsulatedDocument"][0].text == "AAE="
    assert len(by_keyword["PatientID"]) == 0


@pytest.mark.parametrize("text", ["<img src=x onerror=1>", "a&b", "]]>", "\x00\x1b\ud800", "\r\n", "\"'"])
def test_any_text_makes_xml_that_can_be_read(text: str) -> None:
    (attribute,) = parse({"00104000": {"vr": "LT", "Value": [text]}})
    found = attribute[0].text
    assert found is not None
    assert found == "".join("\ufffd" if c in "\x00\x1b\ud800" else c for c in text)


def test_nesting_is_bounded() -> None:
    attributes: dict[str, Any] = {}
    for _ in range(100):
        attributes = {"00081199": {"vr": "SQ", "Value": [attributes]}}
    with pytest.raises(BadInstance, match="deeper"):
        to_native_xml(attributes)
