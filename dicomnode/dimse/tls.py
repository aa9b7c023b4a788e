"""TLS for associations: what both ends insist upon, and whose certificate the other end has shown.

Source: PS3.15 B.9 to B.12 (BCP 195, RFC 9325): TLS 1.2 and 1.3, forward secrecy, authenticated encryption.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import msgspec

from dicomnode.config import ClientTlsTable, Config, PeerTable, ServerTlsTable
from dicomnode.dimse.validity import not_after
from dicomnode.errors import ConfigError, PeerError

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
_FINGERPRINT = re.compile(r"(?:sha256:)?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})")


class Certificate(msgspec.Struct, frozen=True):
    """A certificate that the other end has shown: the names in it, lower case, and its SHA-256 in hexadecimal."""

    names: frozenset[str]
    fingerprint: str

    def fits(self, told: str) -> bool:
        """Tell whether this is the certificate that the configuration describes: by a name, or by fingerprint."""
        wanted = fingerprint_of(told)
        return wanted == self.fingerprint if wanted else told.strip().lower() in self.names


def fingerprint_of(told: str) -> str:
    """Return the SHA-256 that a `certificate` of the configuration is, as 64 hexadecimal digits; "" for a name."""
    found = _FINGERPRINT.fullmatch(told.strip().lower())
    return found[1].replace(":", "") if found else ""


def certificate_of(transport: asyncio.BaseTransport) -> Certificate | None:
    """Return the certificate that the other end has shown, None without TLS or where it showed none.

    Its names are known only where it was verified.
    """
    secured = cast("ssl.SSLObject | None", transport.get_extra_info("ssl_object"))
    raw = secured.getpeercert(binary_form=True) if secured is not None else None
    if secured is None or raw is None:
        return None
    told = cast("dict[str, Any]", secured.getpeercert() or {})
    names = {value for part in told.get("subject", ()) for key, value in part if key == "commonName"}
    names |= {value for kind, value in told.get("subjectAltName", ()) if kind in ("DNS", "IP Address", "URI", "email")}
    return Certificate(frozenset(name.strip().lower() for name in names), hashlib.sha256(raw).hexdigest())


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the address at the other end, "" where it has none."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def server_context(table: ServerTlsTable) -> ssl.SSLContext:
    """Return how associations are accepted on TLS; blocks. Raises: ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _insist(context, table.profile)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _show(context, table.certificate, table.key, "storescp.tls")
    if table.client_ca:
        _trust(context, table.client_ca, "storescp.tls.client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def calling(peer: PeerTable) -> ssl.SSLContext | None:
    """Return how this peer is called on TLS, None for one that is called without. Raises: PeerError, for our own files.

    The files are read again when they have changed. Where the peer's certificate is known by a name or a fingerprint,
    `check_certificate` looks for that, and the host's name does not matter.
    """
    table = _table_of(peer)
    if table is None:
        return None
    try:
        return await asyncio.to_thread(client_context, table, peer.certificate)
    except ConfigError as error:
        raise PeerError(str(error)) from error


def _table_of(peer: PeerTable) -> ClientTlsTable | None:
    """Return how a peer is called on TLS; `true`, which the configuration has replaced, is whom this machine trusts."""
    if isinstance(peer.tls, ClientTlsTable):
        return peer.tls
    return ClientTlsTable() if peer.tls else None


def client_context(table: ClientTlsTable, certificate: str = "") -> ssl.SSLContext:
    """Return how a peer is called whose certificate is described so, "" for the name of its host; blocks.

    Raises: ConfigError.
    """
    return _client_context(table, certificate, tuple(_age(name) for name in _files(table)))


def problem_of(error: ssl.SSLError, where: str) -> PeerError:
    """Return what a caller is told when TLS fails; a retry does not help against a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return PeerError(f"{where} shows a certificate that is not trusted: {error.verify_message}")
    return PeerError(f"{where} cannot be spoken to on TLS: {error.reason or error.strerror or 'no reason given'}")


def check_certificate(peer: PeerTable, transport: asyncio.BaseTransport) -> None:
    """Return if the other end is the one that the configuration means. Raises: PeerError."""
    if _table_of(peer) is None or not peer.certificate:
        return
    shown = certificate_of(transport)
    if shown is None or not shown.fits(peer.certificate):
        raise PeerError("the peer shows another certificate than the configuration says")


def faults_of(config: Config) -> list[ConfigError]:
    """Return what is wrong with the files that TLS needs, also what would be found out when a peer calls; blocks."""
    server = config.storescp.tls
    checks: list[Callable[[], object]] = []
    if server.port >= 0:
        checks += [partial(server_context, server), partial(_check_validity, "storescp.tls", server.certificate)]
    for table in {peer.tls for peer in config.peers.values() if isinstance(peer.tls, ClientTlsTable)}:
        checks += [partial(client_context, table), partial(_check_validity, "node.tls", table.certificate)]
    faults: dict[str, ConfigError] = {}
    for check in checks:
        try:
            check()
        except ConfigError as fault:
            faults[str(fault)] = fault
    return list(faults.values())


def days_left(certificate: str) -> int | None:
    """Return for how many days more the certificate in this file holds, None where that cannot be read; blocks."""
    try:
        return (not_after(Path(certificate)) - datetime.now(UTC)).days
    except (OSError, ValueError):
        return None


def _check_validity(path: str, name: str) -> None:
    left = days_left(name)
    if left is not None and left < 0:
        raise ConfigError(f"{path}.certificate", f"{name} has expired", "have a new one signed")


def _files(table: ClientTlsTable) -> tuple[str, ...]:
    return tuple(name for name in (table.ca, table.certificate, table.key) if name)


def _age(name: str) -> tuple[int, int]:
    try:
        found = Path(name).stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _client_context(table: ClientTlsTable, certificate: str, _ages: tuple[tuple[int, int], ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _insist(context, table.profile)
    if table.certificate:
        _show(context, table.certificate, table.key, "node.tls")
    context.check_hostname = not certificate
    if fingerprint_of(certificate) and not table.ca:
        context.verify_mode = ssl.CERT_NONE  # this one certificate is trusted, whoever has signed it
    elif table.ca:
        _trust(context, table.ca, "node.tls.ca")
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _insist(context: ssl.SSLContext, profile: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if profile == "tls13" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _show(context: ssl.SSLContext, certificate: str, key: str, path: str) -> None:
    _read(f"{path}.certificate", certificate, lambda: Path(certificate).read_bytes())
    if key:
        _read(f"{path}.key", key, lambda: Path(key).read_bytes())
    # A key under a passphrase would be asked for on the terminal.
    _read(
        f"{path}.{'key' if key else 'certificate'}",
        key or certificate,
        lambda: context.load_cert_chain(certificate, key or None, password=lambda: b""),
    )


def _trust(context: ssl.SSLContext, authorities: str, path: str) -> None:
    _read(path, authorities, lambda: context.load_verify_locations(authorities))


def _read(path: str, name: str, load: Callable[[], object]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(path, f"{name} is not the key of the certificate") from error
        raise ConfigError(path, f"{name} cannot be used", "PEM is wanted, a key without a passphrase") from error
    except OSError as error:
        raise ConfigError(path, f"{name} cannot be read: {error.strerror}") from error
