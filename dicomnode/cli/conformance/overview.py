"""Sections 1 to 3: what the node offers at a glance (PS3.2 A.1 to A.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dicomnode import __version__
from dicomnode.cli.conformance.facts import Facts, name_of
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table
from dicomnode.cli.conformance.requests import SCU


def overview(facts: Facts) -> str:
    """Return the sections."""
    return joined(
        (
            heading("1", "Overview"),
            prose(
                """
                dicomnode receives composite objects by DIMSE and by the web, keeps them as they came, makes them
                findable and gives them back. It keeps a modality worklist and the performed procedure steps that refer
                to it.

                Network services:
                """
            ),
            table(("SOP class", "UID", "user (SCU)", "provider (SCP)"), _services(facts)),
            prose(
                """
                Web services (PS3.18): search, retrieve and store of the studies service; WADO-URI.

                Media: Part 10 files, folders, ZIP archives and DICOMDIRs are imported. No media are written.
                """
            ),
            heading("2", "Contents"),
            "3 Introduction · 4 Networking · 5 Media interchange · 6 Character sets · 7 Security · 8 Annexes",
            heading("3", "Introduction"),
            prose(
                f"""
                This is the DICOM conformance statement of dicomnode {__version__}, in the form of PS3.2 annex A. It is
                written by `dicomnode conformance` from the tables by which the node works, for one configuration; 4.4
                has its values.

                That two products conform does not warrant that they work together: try the pair. dicomnode is not a
                medical device.

                AE is an application entity, SCU the end that asks, SCP the end that answers, UID a unique identifier.
                """
            ),
        )
    )


def _services(facts: Facts) -> Iterator[Sequence[str]]:
    yield f"Storage: {len(facts.storage)} SOP classes (8.1)", "", "yes", "yes"
    for uid in facts.services:
        yield name_of(uid), code(uid), "yes" if uid in SCU else "no", "yes"
