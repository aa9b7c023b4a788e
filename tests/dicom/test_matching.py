from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dicom.matching import columns, normalise, parse_match
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_KEYWORD, Form
from dicomnode.model.instance import Fragments
from dicomnode.model.query import NamePattern, OneOf, Range, Wildcard


@pytest.mark.parametrize(
    ("form", "text", "column"),
    [
        (Form.EXACT, " A\0", "A"),
        (Form.EXACT, "a B", "a B"),
        (Form.FOLDED, "  Tête  ÉPAULE ", "tete epaule"),
        (Form.FOLDED, "Straße", "strasse"),
        (Form.FOLDED, "ΣΟΦΟΣ", "σοφοσ"),
        (Form.NAME, "Doe^Jane^^^", "doe^jane"),
        (Form.NAME, "DOE ^ Jane", "doe^jane"),
        (Form.NAME, "Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまた^たろう"),
        (Form.NAME, "=山田", "=山田"),
        (Form.NAME, "Doe==", "doe"),
        (Form.DATE, "2026.01.02", "20260102"),
        (Form.DATE, "20260102 ", "20260102"),
        (Form.DATE, "long ago", "long ago"),
        (Form.TIME, "10", "100000.000000"),
        (Form.TIME, "101112.5", "101112.500000"),
        (Form.TIME, "10:11:12", "101112.000000"),
        (Form.TIME, "1", "1"),
        (Form.NUMBER, " 007", "7"),
        (Form.NUMBER, "+0", "0"),
        (Form.NUMBER, "-03", "-3"),
        (Form.NUMBER, "-0", "0"),
        (Form.NUMBER, "1.5", "1.5"),
        (Form.UID, "1.2.3\0", "1.2.3"),
    ],
)
def test_normal_forms(form: Form, text: str, column: str) -> None:
    assert normalise(form, text) == column


@given(st.sampled_from(Form), st.text(max_size=40))
def test_a_normal_form_is_its_own(form: Form, text: str) -> None:
    once = normalise(form, text)
    assert normalise(form, once) == once


def test_columns_come_from_all_levels_and_empty_ones_are_absent() -> None:
    fragments = Fragments(
        json.dumps({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^J"}]}, "00100020": {"vr": "LO"}}),
        json.dumps({"00080020": {"vr": "DA", "Value": ["20260102"]}, "00081030": {"vr": "LO", "Value": ["CT Äb"]}}),
        json.dumps({"00200011": {"vr": "IS", "Value": [3]}, "00081050": {"vr": "PN", "Value": [{}, None]}}),
        json.dumps({"00080018": {"vr": "UI", "Value": ["1.2"]}, "00281050": {"vr": "DS", "Value": [40, 50]}}),
    )
    assert columns(fragments) == {
        "PatientName": "doe^j",
        "StudyDate": "20260102",
        "StudyDescription": "ct ab",
        "SeriesNumber": "3",
        "SOPInstanceUID": "1.2",
    }


def test_each_of_several_names_is_a_group_that_may_fit() -> None:
    names = [{"Alphabetic": "A^B", "Ideographic": "山"}, {"Alphabetic": "C"}]
    found = columns(Fragments(series=json.dumps({"00081050": {"vr": "PN", "Value": names}})))
    assert found == {"PerformingPhysicianName": "a^b=山=c"}
    assert NamePattern(("c",)).accepts(found["PerformingPhysicianName"])


@pytest.mark.parametrize(
    ("keyword", "text", "match"),
    [
        ("PatientID", "", None),
        ("PatientID", "*", None),
        ("PatientID", "**", None),
        ("PatientID", '""', OneOf(("",))),
        ("PatientID", "a*", Wildcard("a*")),
        ("PatientID", "a", OneOf(("a",))),
        ("PatientID", "50%_[x]", OneOf(("50%_[x]",))),
        ("StudyDescription", "Tête*", Wildcard("tete*")),
        ("PatientName", "*", None),
        ("PatientName", "Doe^J*", NamePattern(("doe^j*",))),
        ("PatientName", "DOE", NamePattern(("doe",))),
        ("PatientName", "A=B", NamePattern(("a", "b"))),
        ("PatientName", "*=B", NamePattern(("b",))),
        ("StudyInstanceUID", "1.2\\1.3,1.2", OneOf(("1.2", "1.3"))),
        ("StudyInstanceUID", "*", None),
        ("Modality", "CT\\MR", OneOf(("CT", "MR"))),
        ("Modality", "C?", Wildcard("C?")),
        ("StudyDate", "20260102", OneOf(("20260102",))),
        ("StudyDate", "2026.01.02-20260203", Range("20260102", "20260203")),
        ("StudyDate", "20260102-", Range("20260102", "")),
        ("StudyDate", "-20260102", Range("", "20260102")),
        ("StudyDate", "-", None),
        ("StudyDate", "*", None),
        ("StudyTime", "10-11", Range("100000.000000", "115959.999999")),
        ("SeriesNumber", "03", OneOf(("3",))),
        ("SeriesNumber", "1?", OneOf(("1?",))),
    ],
)
def test_what_keys_ask(keyword: str, text: str, match: object) -> None:
    assert parse_match(BY_KEYWORD[keyword], text) == match


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("doe jane", NamePattern(("doe", "jane"), words=True)),
        ("*doe*", NamePattern(("*doe*",))),
        ("*doe jane*", NamePattern(("doe", "jane"), words=True)),
        ("*", None),
        ("Müller", NamePattern(("muller",), words=True)),
    ],
)
def test_fuzzy_names_are_words(text: str, match: object) -> None:
    assert parse_match(BY_KEYWORD["PatientName"], text, fuzzy=True) == match


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("StudyDate", "secret"),
        ("StudyDate", "2026*"),
        ("StudyDate", "secret-20260102"),
        ("StudyDate", "2026-01-02"),
        ("StudyTime", "1-secret"),
        ("StudyInstanceUID", "1.2.secret*"),
        ("PatientName", "secret" * 20_000),
    ],
)
def test_what_cannot_be_asked_is_told_without_the_value(keyword: str, text: str) -> None:
    with pytest.raises(BadRequest, match=keyword) as error:
        parse_match(BY_KEYWORD[keyword], text)
    assert "secret" not in str(error.value)


@given(st.sampled_from(sorted(BY_KEYWORD)), st.text(max_size=30), st.booleans())
def test_any_text_is_read_or_refused(keyword: str, text: str, fuzzy: bool) -> None:
    try:
        match = parse_match(BY_KEYWORD[keyword], text, fuzzy=fuzzy)
    except BadRequest:
        return
    if match is not None:
        assert match.accepts("anything") in (True, False)


@given(st.text(st.characters(exclude_characters='*?\\,="', exclude_categories=["Cs"]), max_size=20))
def test_a_value_asked_for_literally_is_found(text: str) -> None:
    for keyword in ("PatientID", "StudyDescription", "PatientName"):
        attribute = BY_KEYWORD[keyword]
        assert attribute.form is not None
        match = parse_match(attribute, text)
        assert match is None or match.accepts(normalise(attribute.form, text))
