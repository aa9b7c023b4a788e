"""Entries and questions for the tests of databases."""

from __future__ import annotations

import hashlib
import json

from hypothesis import strategies as st

from dicomnode.model.attributes import BY_KEYWORD, Level, searched_at
from dicomnode.model.entry import Entry
from dicomnode.model.instance import Fragments
from dicomnode.model.query import Match, NamePattern, OneOf, Query, Range, Wildcard

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def _fragment(level: Level, columns: dict[str, str]) -> str:
    """Return attributes from which `columns` could follow."""
    found = {}
    for attribute in searched_at(level):
        if attribute.keyword in columns:
            value = columns[attribute.keyword]
            found[attribute.tag] = {"vr": attribute.vr, "Value": [value]} if value else {"vr": attribute.vr}
    return json.dumps(found)


def entry(
    study: str = "1.1",
    series: str = "",
    sop: str = "",
    *,
    key: str = "",
    content: str = "",
    tenant: str = "default",
    sop_class: str = CT,
    size: int = 1000,
    offset: int = 100,
    **columns: str,
) -> Entry:
    """Return a reception; what is not said follows from what is."""
    series = series or f"{study}.1"
    sop = sop or f"{series}.1"
    content = content or sop
    told = {name: value for name, value in columns.items() if value}
    return Entry(
        tenant=tenant,
        patient_id=columns.get("PatientID", ""),
        study_uid=study,
        series_uid=series,
        sop_uid=sop,
        sop_class_uid=sop_class,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        key=key or f"{tenant}/20240102/{study}/{series}/{sop}-{content}.dcm",
        size=size,
        data_set_offset=offset,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        number_of_frames=1,
        received="2024-01-02T03:04:05Z",
        fragments=Fragments(*(_fragment(level, columns) for level in Level)),
        columns=told,
    )


_values = st.sampled_from(["", "a", "b", "ab", "aab", "a[b", "a]", "b*", "?", "a%b_", "Ä", "20240102"])
_names = st.sampled_from(["", "doe^john", "doe^jane", "a=b=c", "yamada^tarou=x^y", "do=e", "van der^a b", "="])
_dates = st.sampled_from(["", "20240101", "20240102", "20241231", "19991231", "2024", "odd"])
_numbers = st.sampled_from(["", "1", "2", "10", "-3", "odd"])
_SOME = {
    "PatientName": _names,
    "PatientID": st.sampled_from(["", "p1", "p2"]),
    "IssuerOfPatientID": st.sampled_from(["", "here"]),
    "StudyDate": _dates,
    "StudyTime": st.sampled_from(["", "120000.000000", "080000.000000"]),
    "AccessionNumber": _values,
    "StudyDescription": _values,
    "Modality": st.sampled_from(["", "CT", "MR", "SR"]),
    "SeriesNumber": _numbers,
    "SeriesDescription": _values,
    "InstanceNumber": _numbers,
    "ContentDate": _dates,
}


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Make receptions of few entities, so that they meet."""
    study = f"1.{draw(st.integers(1, 3))}"
    series = f"{study}.{draw(st.integers(1, 2))}" if draw(st.booleans()) else f"9.{draw(st.integers(1, 2))}"
    columns = {name: draw(values) for name, values in _SOME.items() if draw(st.booleans())}
    content = str(draw(st.integers(1, 4)))
    return entry(
        study,
        series,
        f"5.{draw(st.integers(1, 5))}",
        key=f"k/{draw(st.integers(1, 30))}",
        content=content,
        tenant=draw(st.sampled_from(["default", "default", "other"])),
        sop_class=draw(st.sampled_from([CT, MR])),
        size=draw(st.sampled_from([1000, 2000])),
        offset=100,
        **columns,
    )


_text = st.text("ab*?[]^= dä%_01", max_size=6)
_words = st.one_of(_values, _names, _text)
_matches: st.SearchStrategy[Match] = st.one_of(
    st.builds(OneOf, st.lists(_words, max_size=3).map(tuple)),
    st.builds(OneOf, st.just((*(f"x{number}" for number in range(100)), "a", "CT", "doe^john", "1.1"))),
    st.builds(Wildcard, st.one_of(_words, _values.map(lambda text: f"{text}*"), st.just("*"))),
    st.builds(Range, st.one_of(_dates, _values), st.one_of(_dates, _values)),
    st.builds(
        NamePattern,
        st.lists(st.one_of(_words, st.sampled_from(["doe*", "*jo?n", "y*x*", "do", "jo", "a*"])), max_size=2).map(
            tuple
        ),
        st.booleans(),
    ),
)
_UIDS = {
    "StudyInstanceUID": st.sampled_from(["1.1", "1.2", "1.9"]),
    "SeriesInstanceUID": st.sampled_from(["1.1.1", "9.1", "9.9"]),
    "SOPInstanceUID": st.sampled_from(["5.1", "5.2", "5.9"]),
    "SOPClassUID": st.sampled_from([CT, MR]),
}


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """Make questions of every kind at every level."""
    level = draw(st.sampled_from(Level))
    names = [name for name in (*_SOME, *_UIDS) if BY_KEYWORD[name].level <= level]
    if level is not Level.PATIENT:
        names += ["ModalitiesInStudy", "SOPClassesInStudy"]
    chosen = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    matches: dict[str, Match] = {}
    for name in chosen:
        own = {**_UIDS, **_SOME}.get(name)
        told = draw(st.lists(own, min_size=1, max_size=2)) if own is not None and draw(st.booleans()) else None
        matches[name] = OneOf(tuple(told)) if told else draw(_matches)
    return Query(draw(st.sampled_from(["default", "other"])), level, matches, draw(st.integers(0, 30)))
