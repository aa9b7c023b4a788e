from __future__ import annotations

import pytest
from pydicom.uid import AllTransferSyntaxes

from dicomnode.dicom.transfer_syntax import GE_PRIVATE_IMPLICIT_VR, STANDARD, of


@pytest.mark.parametrize("uid", AllTransferSyntaxes)
def test_every_transfer_syntax_is_as_pydicom_has_it(uid: str) -> None:
    theirs = next(syntax for syntax in AllTransferSyntaxes if syntax == uid)
    ours = of(uid)
    assert ours.known
    assert ours.uid in STANDARD
    assert ours.implicit == theirs.is_implicit_VR
    assert ours.big_endian == (not theirs.is_little_endian)
    # What pydicom calls encapsulated is all that is not native, JPIP and video over IP too, which hold no pixels.
    assert not ours.encapsulated or theirs.is_encapsulated


@pytest.mark.parametrize(
    ("uid", "media_type"),
    [
        ("1.2.840.10008.1.2.1", "application/octet-stream"),
        ("1.2.840.10008.1.2.1.98", "application/octet-stream"),
        ("1.2.840.10008.1.2.4.50", "image/jpeg"),
        ("1.2.840.10008.1.2.4.70", "image/jpeg"),
        ("1.2.840.10008.1.2.4.81", "image/jls"),
        ("1.2.840.10008.1.2.4.90", "image/jp2"),
        ("1.2.840.10008.1.2.4.92", "image/jpx"),
        ("1.2.840.10008.1.2.4.202", "image/jphc"),
        ("1.2.840.10008.1.2.4.112", "image/jxl"),
        ("1.2.840.10008.1.2.5", "image/x-dicom-rle"),
        ("1.2.840.10008.1.2.4.100", "video/mpeg"),
        ("1.2.840.10008.1.2.4.102.1", "video/mp4"),
        ("1.2.840.10008.1.2.4.107", "video/H265"),
    ],
)
def test_the_media_type_of_a_frame(uid: str, media_type: str) -> None:
    assert of(uid).media_type == media_type


def test_deflated_syntaxes() -> None:
    assert {uid.rsplit(".", 2)[-1] for uid, syntax in STANDARD.items() if syntax.deflated} == {"99", "95", "205"}


def test_the_private_one_of_ge_is_implicit() -> None:
    assert of(GE_PRIVATE_IMPLICIT_VR).implicit
    assert of(GE_PRIVATE_IMPLICIT_VR).known


def test_an_unknown_one_is_taken_as_explicit_and_encapsulated() -> None:
    found = of("1.2.3.4")
    assert (found.known, found.implicit, found.big_endian, found.encapsulated) == (False, False, False, True)
    assert found.uid == "1.2.3.4"
