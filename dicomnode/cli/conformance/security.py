"""Sections 5 to 7: media, character sets, security (PS3.2 A.5 to A.7)."""

from __future__ import annotations

from pydicom.charset import STAND_ALONE_ENCODINGS, python_encoding

from dicomnode.cli.conformance.facts import Facts
from dicomnode.cli.conformance.markdown import code, heading, joined, prose
from dicomnode.dimse.tls import SUITES

_PROFILES = {
    "bcp195": "TLS 1.2 and 1.3, the BCP 195 RFC 8996, 9325 TLS secure transport connection profile (PS3.15 B.12)",
    "tls13": "TLS 1.3 only",
}


def media(_: Facts) -> str:
    """Return section 5."""
    return joined(
        (
            heading("5", "Media interchange"),
            prose(
                """
                `dicomnode import` reads Part 10 files from folders, ZIP archives and by DICOMDIRs. The node keeps every
                object as a Part 10 file (PS3.10). It writes no DICOMDIR and claims no media application profile.
                """
            ),
        )
    )


def character_sets(_: Facts) -> str:
    """Return section 6."""
    terms = sorted(term for term in python_encoding if term.startswith(("ISO_IR", "ISO 2022 IR", "GB")))
    alone = ", ".join(map(code, sorted(STAND_ALONE_ENCODINGS)))
    return joined(
        (
            heading("6", "Support of character sets"),
            f"Read, for the index, queries and metadata: {', '.join(map(code, terms))}.",
            prose(
                f"""
                Code extensions are understood; {alone} stand alone. Misspelt terms are understood where that is safe.
                Bytes that are no text of their set become U+FFFD.

                DICOM JSON is in UTF-8. Objects themselves are never changed.
                """
            ),
        )
    )


def security(facts: Facts) -> str:
    """Return section 7."""
    asked = "a bearer token is asked for" if facts.config.server.auth.tokens else "no token is asked for"
    return joined(
        (
            heading("7", "Security"),
            heading("7.1", "Security profiles"),
            prose(
                f"""
                - Associations to the node on TLS: {_door(facts)}.
                - Associations of the node on TLS: {_peers(facts)}.
                - Cipher suites of TLS 1.2, in OpenSSL's words: {code(SUITES)}.
                - The web door speaks HTTP; TLS is for a proxy before it. Of its clients {asked}.
                """
            ),
            heading("7.2", "Association level security"),
            prose(
                f"""
                - Peers are told apart by AE title and address, on TLS also by certificate (4.2.1.4, 4.4.1).
                - User identity negotiation (PS3.7 D.3.3.7): {code(facts.config.storescp.user_identity)}.
                """
            ),
        )
    )


def _door(facts: Facts) -> str:
    tls = facts.config.storescp.tls
    if tls.port < 0:
        return f"off; it can be switched on as {_PROFILES[tls.profile]}"
    mutual = "asked for and checked" if tls.client_ca else "not asked for"
    return f"{_PROFILES[tls.profile]}, on port {tls.port}; certificates of peers are {mutual}"


def _peers(facts: Facts) -> str:
    called = ", ".join(name for name, peer in facts.config.peers.items() if peer.tls)
    return f"to {called}, {_PROFILES[facts.config.node.tls.profile]}" if called else "to no peer of 4.4.1"
