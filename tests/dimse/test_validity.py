from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.dimse.validity import _Der, not_after
from tests.certificates import authority


@pytest.mark.parametrize("year", [2020, 2038, 2049, 2050, 2120])
def test_the_end_is_read_as_others_read_it(tmp_path: Path, year: int) -> None:
    end = datetime.datetime(year, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
    made = authority().issue_cert("localhost", not_after=end)
    file = tmp_path / "c.pem"
    file.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    assert not_after(file) == end
    assert x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc == end


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.pem"
    file.write_text(text)
    with pytest.raises(ValueError, match=r".*"):
        not_after(file)


@given(st.binary(max_size=50))
def test_any_bytes_are_walked_or_refused(data: bytes) -> None:
    der = _Der(data)
    try:
        while der.kind != -1:
            der.skip()
    except ValueError:
        pass
    assert der.kind == -1 or len(data) > 0
