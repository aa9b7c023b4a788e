"""Certificates for one test run: two authorities, a node and peers, as PEM files."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

import trustme

_PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@cache
def authority(name: str = "ours") -> trustme.CA:
    return trustme.CA(organization_name=name)


def authority_file(folder: Path, name: str = "ours") -> Path:
    path = folder / f"ca-{name}.pem"
    authority(name).cert_pem.write_to_path(str(path))
    return path


def certified(folder: Path, *names: str, by: str = "ours", expired: bool = False) -> tuple[Path, Path]:
    """Return the files of a new certificate of these names, and of its key."""
    made = authority(by).issue_cert(*names, common_name=names[0], not_after=_PAST if expired else None)
    stem = f"{names[0]}-{by}"
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    return certificate, key
