"""Sections 4.1 and 4.2.1: what the node is, who may call it, and what is agreed to (PS3.2 A.4.1, A.4.2.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dicomnode.cli.conformance.facts import Facts, name_of
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table
from dicomnode.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.dimse.encode import APPLICATION_CONTEXT
from dicomnode.dimse.service import FIND, GET, MOVE, STORE, WORKLIST, service_of

# What the bytes of the extended negotiation say (PS3.4 B.3.1, C.5.1.1, C.5.2.1, C.5.3.1, K.5).
_FIND = ("relational queries", "combined date and time", "fuzzy names", "time zone", "enhanced multi-frame conversion")
_RETRIEVE = ("relational retrieval", "enhanced multi-frame conversion")
_EXTENDED = {FIND: _FIND, MOVE: _RETRIEVE, GET: _RETRIEVE, WORKLIST: ("in use", *_FIND[1:4])}

_UNKNOWN = {None: "from this machine only", True: "from anywhere", False: "from nowhere"}
_IDENTITY = {
    "ignored": "User identity is ignored.",
    "checked": "A user identity that is told must be of a user of ours.",
    "required": "A user identity must be told, and be of a user of ours.",
}


def model(_: Facts) -> str:
    """Return section 4.1."""
    return joined(
        (
            heading("4", "Networking"),
            heading("4.1", "Implementation model"),
            prose(
                """
                ```mermaid
                flowchart LR
                  modality(["modality"]) -- "C-STORE, MPPS, worklist" --> scp
                  workstation(["workstation"]) -- "C-FIND, C-MOVE, C-GET" --> scp
                  scp["DIMSE application entity"] -- "C-STORE, N-EVENT-REPORT" --> peers(["peers"])
                  commands["commands of an operator"] --> peers
                  viewer(["viewer"]) -- "QIDO-RS, WADO-RS, STOW-RS" --> web["web application entity"]
                  scp --- store[("storage, index")]
                  web --- store
                ```

                - The DIMSE application entity waits for associations. What it receives is durable before it is
                  acknowledged, and a query that comes after that sees it.
                - It opens associations itself for the sub-operations of C-MOVE and for reports of storage commitment.
                - An operator's commands open associations of their own; they need no running node.
                - The web application entity serves the same objects to DICOMweb clients (4.2.2).
                - A performed procedure step that names a scheduled one changes the status of its worklist entry.
                  Otherwise no activity has to precede another.
                """
            ),
        )
    )


def policies(facts: Facts) -> str:
    """Return sections 4.2.1.1 and 4.2.1.2."""
    return joined(
        (
            heading("4.2", "Application entities"),
            heading("4.2.1", "DIMSE application entity"),
            heading("4.2.1.1", "SOP classes"),
            "Those of section 1; the storage SOP classes are in 8.1.",
            heading("4.2.1.2", "Association policies"),
            table(("parameter", "value"), _general(facts)),
        )
    )


def acceptance(facts: Facts) -> str:
    """Return section 4.2.1.4."""
    scp, policy = facts.config.storescp, facts.policy
    called = "is not looked at" if scp.any_called_ae_title else "must be one of ours (else source 1, reason 7)"
    unknown = "accepted as storage" if policy.unknown_sop_classes else "refused, unless related to a storage class"
    private = "accepted" if policy.private_transfer_syntaxes else "refused"
    return joined(
        (
            heading("4.2.1.4", "Acceptance of associations"),
            prose(
                f"""
                - The called AE title {called}.
                - Peers are known by AE title and address (4.4.1). Others may come in
                  {_UNKNOWN[scp.accept_unknown_peers]}, else they are rejected (source 1, reason 3).
                - A service that a known peer may not use is refused by presentation context (result 1).
                - {_IDENTITY[scp.user_identity]} Types 1 (name), 2 (name and passcode) and 5 (JSON web token) are
                  understood.
                - Over a limit, or with too little free storage for objects that would be sent, an association is
                  rejected for now (source 3, reason 2): the peer may try again.

                Presentation contexts that are accepted:
                """
            ),
            table(
                ("abstract syntax", "transfer syntaxes", "requestor may be", "extended negotiation"), _contexts(facts)
            ),
            prose(
                f"""
                - The first transfer syntax of a context that is accepted is chosen. Each context is judged by itself.
                - SOP classes that the standard does not know are {unknown}. Those of services that are not offered are
                  refused (result 3). Common extended negotiation may tell that an unknown class is storage.
                - Transfer syntaxes that the standard does not know are {private}.
                - Whoever breaks the protocol is told by A-ABORT with the reason of PS3.8 table 9-26. Who sends no DICOM
                  at all is cut off.
                """
            ),
        )
    )


def _general(facts: Facts) -> Sequence[tuple[str, object]]:
    scp, limits = facts.config.storescp, facts.config.storescp.limits
    storage, others = facts.window(facts.storage[0]), max(map(facts.window, _questions(facts)))
    return (
        ("application context", code(APPLICATION_CONTEXT)),
        ("own AE titles", ", ".join(map(code, (scp.ae_title, *scp.ae_titles)))),
        ("largest PDU received", f"{facts.policy.max_pdu} bytes"),
        ("largest PDU sent", "what the peer takes"),
        ("associations at a time", limits.associations),
        ("of these from one address", limits.associations_per_peer),
        ("operations that a peer may invoke, contexts for storage and verification only", storage),
        ("operations that a peer may invoke, other contexts too", others),
        ("implementation class UID", code(IMPLEMENTATION_CLASS_UID)),
        ("implementation version name", code(IMPLEMENTATION_VERSION_NAME)),
        ("ARTIM timer", f"{limits.artim_s:g} s"),
        ("longest silence between messages", f"{limits.idle_s:g} s"),
        ("longest time of one message", f"{limits.message_s:g} s"),
        ("longest data set", f"{limits.data_set} bytes"),
        ("longest association request", f"{limits.associate} bytes"),
    )


def _questions(facts: Facts) -> list[str]:
    return [uid for uid in facts.services if service_of(uid) in _EXTENDED]


def _contexts(facts: Facts) -> Iterator[Sequence[str]]:
    yield "storage (8.1)", "8.2", _roles(facts, facts.storage[0]), _extended(facts, facts.storage[0])
    for uid in facts.services:
        syntaxes = ", ".join(syntax.name for syntax in facts.syntaxes(uid))
        yield f"{name_of(uid)} {code(uid)}", syntaxes, _roles(facts, uid), _extended(facts, uid)


def _roles(facts: Facts, uid: str) -> str:
    role = facts.role(uid)
    return ", ".join(name for name, may in (("SCU", role.scu), ("SCP", role.scp)) if may)


def _extended(facts: Facts, uid: str) -> str:
    agreed = facts.extended(uid)
    if not agreed:
        return "none"
    if service_of(uid) == STORE:
        return f"level of support {agreed[0]}, digital signatures {agreed[2]}, element coercion {agreed[4]}"
    names = _EXTENDED[service_of(uid)]
    return ", ".join(f"{name}: {'yes' if byte else 'no'}" for name, byte in zip(names, agreed, strict=False))
