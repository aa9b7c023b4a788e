from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.valuerep import TEXT_VR_DELIMS

from dicomnode.dicom import charset
from tests.corpus import needs_corpus
from tests.dicom import oracle

TERMS = sorted(term for term in python_encoding if term)


def pydicoms(terms: str, value: bytes) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode_bytes(value, convert_encodings(terms.split("\\")), TEXT_VR_DELIMS)


@given(
    st.lists(st.sampled_from([*TERMS, ""]), min_size=1, max_size=4).map("\\".join),
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from(
                [b"\x1b$B;3ED\x1b(B", b"\x1b)I\xd4\xcf\xc0\xde", b"\x1b$)C\xc8\xab", b"\x1b-F\xc4\xe9", b"\r\n", b"^="]
            ),
        ),
        max_size=4,
    ).map(b"".join),
)
def test_text_is_as_pydicom_reads_it(terms: str, value: bytes) -> None:
    try:
        expected = pydicoms(terms, value)
    except (UnicodeError, LookupError):
        # Where its fallback fails too, ours still has to give text.
        assert isinstance(charset.of(terms.encode()).decode(value), str)
        return
    assert charset.of(terms.encode()).decode(value) == expected


@pytest.mark.parametrize(
    ("term", "codec"),
    [
        (b"", "latin-1"),
        (b"ISO_IR 100", "latin_1"),
        (b"ISO IR 100", "latin_1"),
        (b"ISO-IR 192", "UTF8"),
        (b"ISO_IR 192 ", "UTF8"),
        (b"utf8", "utf-8"),
        (b"ISO-2022-IR-144", "iso_ir_144"),
        (b"GB18030", "GB18030"),
        (b"GBK", "GBK"),
        (b"nonsense", "latin-1"),
        (b"zip", "latin-1"),
        (b"unicode_escape", "latin-1"),
        (b"\xff\xfe", "latin-1"),
    ],
)
def test_terms_and_their_misspellings(term: bytes, codec: str) -> None:
    assert charset.of(term).codecs == (codec,)


def test_a_term_that_had_to_be_guessed_is_told() -> None:
    assert charset.of(b"ISO IR 100").misspelt
    assert charset.of(b"ISO_IR 192\\ISO 2022 IR 87").misspelt
    assert not charset.of(b"ISO_IR 100").misspelt
    assert not charset.of(b"\\ISO 2022 IR 87").misspelt


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_nothing_raises(terms: bytes, value: bytes) -> None:
    found = charset.of(terms).decode(value)
    assert found.encode("utf-8", "replace").decode() == found


def check(names: list[tuple[str, bytes]]) -> None:
    for path, file in names:
        ds = oracle.read(file)
        if "PatientName" not in ds:
            continue
        terms = ds.get("SpecificCharacterSet") or ""
        joined = terms if isinstance(terms, str) else "\\".join(terms)
        raw = ds.PatientName.original_string or b""
        assert charset.of(joined.encode()).decode(raw) == str(ds.PatientName), path


def test_the_names_in_the_wheel() -> None:
    check([(str(p), p.read_bytes()) for p in oracle.wheel() if "charset" in str(p)])


@needs_corpus
def test_the_names_of_the_character_set_samples() -> None:
    check([(str(p), p.read_bytes()) for p in oracle.corpus() if p.parent.name == "charsets" and p.name != "DICOMDIR"])


@given(
    st.lists(st.sampled_from([*TERMS, ""]), min_size=1, max_size=4).map("\\".join),
    st.text("aZ ^=\\é ßΩДأש山王한ｱ\r\n", max_size=12),
)
def test_what_can_be_written_reads_as_it_was(terms: str, text: str) -> None:
    found = charset.of(terms.encode())
    try:
        raw = found.encode(text)
    except UnicodeEncodeError:
        assert not text.isascii()
        return
    assert found.decode(raw) == text
    if "58" not in terms:  # whose escape sequences pydicom leaves in the text
        assert pydicoms(terms, raw) == text


def test_simplified_chinese_has_no_escape_sequences_in_its_text() -> None:
    found = charset.of(b"\\ISO 2022 IR 58")
    assert found.decode(b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab") == "Zhang^XiaoDong=张^小东"


@pytest.mark.parametrize("terms", [b"", b"ISO_IR 100", b"\\ISO 2022 IR 87", b"ISO_IR 13", b"nonsense"])
def test_what_a_set_lacks_is_not_written(terms: bytes) -> None:
    with pytest.raises(UnicodeEncodeError):
        charset.of(terms).encode("Ω홍")
