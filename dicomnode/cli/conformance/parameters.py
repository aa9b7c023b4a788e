"""Sections 4.3 and 4.4: network interfaces and configuration (PS3.2 A.4.3, A.4.4). No secret is told."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dicomnode.cli.conformance.facts import Facts
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table

_TOLD = ("storescp", "query", "worklist", "commitment", "ingest", "server")
# Where files lie and what they are called concerns nobody outside, and secrets nobody at all.
_UNTOLD = frozenset({"certificate", "key", "client_ca", "folder", "auth", "ae_titles"})


def parameters(facts: Facts) -> str:
    """Return the sections."""
    config = facts.config
    peers = [
        (name, peer.ae_title, peer.host, peer.port, ", ".join(peer.services), "yes" if peer.tls else "no")
        for name, peer in config.peers.items()
    ]
    rows = [row for name in _TOLD for row in _rows(name, getattr(config, name))]
    return joined(
        (
            heading("4.3", "Network interfaces"),
            "TCP/IP, version 4 and 6. No physical medium is required.",
            heading("4.4", "Configuration"),
            heading("4.4.1", "AE titles and addresses"),
            prose(
                f"""
                The node itself is {code(config.storescp.ae_title)} on port {config.storescp.port}. More AE titles of
                its own, each for a tenant:
                """
            ),
            table(("AE title", "tenant"), config.storescp.ae_titles.items()),
            "Peers:",
            table(("name", "AE title", "host", "port", "services it may ask for", "called on TLS"), peers),
            heading("4.4.2", "Parameters"),
            "All of them are explained in `config.toml.example`. Sizes in bytes, times in seconds.",
            table(("key", "value"), rows),
        )
    )


def _rows(path: str, held: msgspec.Struct) -> Iterator[tuple[str, str]]:
    for field in held.__struct_fields__:
        value = getattr(held, field)
        if field in _UNTOLD:
            continue
        if isinstance(value, msgspec.Struct):
            yield from _rows(f"{path}.{field}", value)
        else:
            yield code(f"{path}.{field}"), _text(value)


def _text(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return code(value) if value != "" else "empty"
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
