"""Until when a certificate holds: the one thing in it that the `ssl` module does not tell of our own (RFC 5280 4.1)."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_END = "-----END CERTIFICATE-----"


def not_after(file: Path) -> datetime:
    """Return when the first certificate of a PEM file expires; blocks. Raises: OSError, ValueError."""
    text = file.read_text(encoding="ascii", errors="replace")
    first = text[text.find("-----BEGIN CERTIFICATE-----") :].partition(_END)[0] + _END
    certificate = _Der(ssl.PEM_cert_to_DER_cert(first))
    told = certificate.within(_SEQUENCE).within(_SEQUENCE)  # TBSCertificate
    if told.kind == _VERSION:
        told.skip()
    for _ in ("serial number", "signature", "issuer"):
        told.skip()
    validity = told.within(_SEQUENCE)
    validity.skip()
    return validity.time()


class _Der:
    """Elements in DER, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def kind(self) -> int:
        return self._data[0] if self._data else -1

    def skip(self) -> bytes:
        """Go on to the next element; return the value of this one. Raises: ValueError."""
        if len(self._data) < 2:
            raise ValueError("a certificate that is cut short")
        size, start = self._data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(self._data[2:start], "big")
        if start + size > len(self._data):
            raise ValueError("a certificate that is cut short")
        value, self._data = self._data[start : start + size], self._data[start + size :]
        return value

    def within(self, kind: int) -> _Der:
        """Return what is in this element, and go on to the next."""
        if self.kind != kind:
            raise ValueError("no certificate")
        return _Der(self.skip())

    def time(self) -> datetime:
        """Return the time that this element is (RFC 5280 4.1.2.5)."""
        kind, text = self.kind, self.skip().decode("ascii", "replace")
        if kind == _UTC_TIME:
            text = ("19" if text[:2] >= "50" else "20") + text
        elif kind != _GENERALIZED_TIME:
            raise ValueError("no time in a certificate")
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
