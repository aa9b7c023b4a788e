"""Every Accept that clients really send, literally (reference/anchors.md, section 5), and what it is answered with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.roles.server.accept import (
    DICOM,
    JSON,
    OCTETS,
    XML,
    Form,
    choose_bulk,
    choose_objects,
    choose_text,
    parse_accept,
    wants_bulk,
)

EXPLICIT, JPEG, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
WHOLE, PLAIN = Form(DICOM, multipart=True), Form(DICOM, multipart=False)
RAW, RAW_PLAIN = Form(OCTETS, multipart=True), Form(OCTETS, multipart=False)


@pytest.mark.parametrize(
    ("accept", "stored", "single", "form"),
    [
        ("", EXPLICIT, False, WHOLE),
        ("*/*", JPEG, True, WHOLE),
        ('multipart/related; type="application/dicom"', JPEG, False, WHOLE),  # dicomweb-client
        ('multipart/related;type="application/dicom";transfer-syntax=*', JPEG, False, WHOLE),  # Weasis
        ("multipart/related; type=application/dicom; transfer-syntax=*", EXPLICIT, True, WHOLE),
        ('multipart/related; type="*/*"', EXPLICIT, False, WHOLE),
        ("multipart/related", EXPLICIT, False, WHOLE),
        ("multipart/*", EXPLICIT, False, WHOLE),
        ("application/dicom", EXPLICIT, True, PLAIN),
        ("application/dicom", EXPLICIT, False, None),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", JPEG, True, PLAIN),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", EXPLICIT, True, None),
        (f'multipart/related; type="application/dicom"; transfer-syntax={J2K}', EXPLICIT, False, None),
        (
            (
                f'multipart/related; type="application/dicom"; transfer-syntax={J2K}, '
                f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}'
            ),
            EXPLICIT,
            False,
            WHOLE,
        ),
        ("application/dicom;q=0.5, multipart/related;q=0.9", EXPLICIT, True, WHOLE),
        ("application/dicom;q=0", EXPLICIT, True, None),
        ("image/jpeg", JPEG, True, None),
        ("text/html", EXPLICIT, True, None),
        ("text/html, */*;q=0.1", EXPLICIT, True, WHOLE),
    ],
)
def test_objects(accept: str, stored: str, single: bool, form: Form | None) -> None:
    assert choose_objects(parse_accept(accept), frozenset({stored}), single=single) == form


@pytest.mark.parametrize(
    ("accept", "stored", "form"),
    [
        ("", (OCTETS, EXPLICIT), RAW),
        # Cornerstone, unquoted
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", ("image/jpeg", JPEG), RAW),
        # OHIF, quoted
        ('multipart/related; type="application/octet-stream"; transfer-syntax="*"', (OCTETS, EXPLICIT), RAW),
        # OHIF with requestTransferSyntaxUID: two transfer-syntax parameters
        (
            f'multipart/related; type="image/jpeg"; transfer-syntax="{J2K}"; transfer-syntax="*"',
            ("image/jpeg", JPEG),
            Form("image/jpeg", multipart=True),
        ),
        (f'multipart/related; type="image/jpeg"; transfer-syntax="{J2K}"', ("image/jpeg", JPEG), None),
        # Python dicomweb-client
        ('multipart/related; type="application/octet-stream"', (OCTETS, EXPLICIT), RAW),
        ('multipart/related; type="*/*"', ("image/jp2", J2K), RAW),
        (
            (
                f'multipart/related; type="application/octet-stream"; transfer-syntax={EXPLICIT}, '
                f'multipart/related; type="image/jp2"; transfer-syntax={J2K}'
            ),
            ("image/jp2", J2K),
            Form("image/jp2", multipart=True),
        ),
        # JS dicomweb-client
        ('multipart/related; type="image/x-jls"', ("image/jls", "1"), Form("image/jls", multipart=True)),
        ('multipart/related; type="image/jhc"', ("image/jphc", "1"), Form("image/jphc", multipart=True)),
        (
            'multipart/related; type="image/dicom-rle"',
            ("image/x-dicom-rle", "1"),
            Form("image/x-dicom-rle", multipart=True),
        ),
        ('multipart/related; type="image/*"', ("image/jpeg", JPEG), Form("image/jpeg", multipart=True)),
        ('multipart/related; type="image/jpeg"', (OCTETS, EXPLICIT), None),
        ("application/octet-stream", (OCTETS, EXPLICIT), RAW_PLAIN),
        ("image/jpeg", ("image/jpeg", JPEG), Form("image/jpeg", multipart=False)),
        ("image/jphc", ("image/jphc", "1"), Form("image/jphc", multipart=False)),
        ("image/png", ("image/jpeg", JPEG), None),
    ],
)
def test_frames(accept: str, stored: tuple[str, str], form: Form | None) -> None:
    assert choose_bulk(parse_accept(accept), *stored, single=True) == form


def test_several_frames_are_never_one_part() -> None:
    assert choose_bulk(parse_accept("image/jpeg"), "image/jpeg", JPEG, single=False) is None


@pytest.mark.parametrize(
    ("accept", "parameter", "chosen"),
    [
        ("application/dicom+json, application/json", "", JSON),
        ("application/json", "", JSON),
        ("application/dicom+xml", "", XML),
        ('multipart/related; type="application/dicom+xml"', "", None),
        ("", "", JSON),
        ("text/html", "application/dicom+json", JSON),
        ("text/html", "application/dicom json", JSON),  # a plus sign that became a space
        ("text/html", "", None),
    ],
)
def test_text(accept: str, parameter: str, chosen: str | None) -> None:
    assert choose_text(parse_accept(accept, parameter), (JSON, XML)) == chosen


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", True),
        ("image/jpeg", True),
        ("*/*", False),
        ("", False),
        ('multipart/related; type="application/dicom", multipart/related; type="image/jpeg"', False),
    ],
)
def test_viewers_that_mean_the_pixels(accept: str, wants: bool) -> None:
    assert wants_bulk(parse_accept(accept)) is wants


@given(st.text(max_size=60) | st.text(alphabet='*/,;="aq.1 \\', max_size=60))
def test_any_text_is_read(text: str) -> None:
    ranges = parse_accept(text)
    assert all(0 < found.quality <= 1 for found in ranges)
    assert choose_objects(ranges, frozenset({EXPLICIT}), single=True) in (None, WHOLE, PLAIN)
