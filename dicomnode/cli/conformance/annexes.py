"""Section 8: the SOP classes and transfer syntaxes in full, and what is private (PS3.2 A.8)."""

from __future__ import annotations

from dicomnode.cli.conformance.facts import Facts, name_of
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table
from dicomnode.dicom.transfer_syntax import TransferSyntax


def annexes(facts: Facts) -> str:
    """Return the section."""
    element = "names the tenant of an object" if facts.config.storescp.tenant_element else "is ignored"
    return joined(
        (
            heading("8", "Annexes"),
            heading("8.1", "Storage SOP classes"),
            table(("SOP class", "UID"), [(name_of(uid), code(uid)) for uid in facts.storage]),
            heading("8.2", "Transfer syntaxes of storage"),
            table(("transfer syntax", "UID", "media type of a frame"), map(_syntax, facts.syntaxes(facts.storage[0]))),
            heading("8.3", "What is private"),
            prose(
                f"""
                The node defines no private attributes, SOP classes or transfer syntaxes. Objects keep those that they
                came with. Element (1211,1217) of a command set, which the standard does not know, {element}.
                """
            ),
        )
    )


def _syntax(syntax: TransferSyntax) -> tuple[str, str, str]:
    return syntax.name, code(syntax.uid), code(syntax.media_type)
