"""What the conformance statement says is accepted is accepted by a running node, as pynetdicom sees it."""

from __future__ import annotations

import pytest
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role

from dicomnode.cli.conformance.facts import Facts, facts_of
from dicomnode.config import Config
from dicomnode.dicom.transfer_syntax import STANDARD
from tests.flows.running import Running

_PRINT = "1.2.840.10008.5.1.1.9"


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_of(Config())


def accepted(node: Running, sop_class: str, syntaxes: list[str]) -> set[str]:
    """Return the transfer syntaxes of `syntaxes` that are accepted for `sop_class`, each in a context of its own."""
    ae = AE("ASKER")
    host, port = node.scp
    role = build_role(sop_class, scu_role=True, scp_role=True)
    contexts = [build_context(sop_class, syntax) for syntax in syntaxes]
    association = ae.associate(host, port, contexts, ae_title="DICOMNODE", ext_neg=[role])
    assert association.is_established or association.is_aborted or association.rejected_contexts
    found = {str(context.transfer_syntax[0]) for context in association.accepted_contexts}
    if association.is_established:
        association.release()
    return found


def test_each_context_is_accepted_as_stated(shared: Running, facts: Facts) -> None:
    syntaxes = list(STANDARD)
    for sop_class in (*facts.services, facts.storage[0], facts.storage[-1]):
        stated = {syntax.uid for syntax in facts.syntaxes(sop_class)}
        assert accepted(shared, sop_class, syntaxes) == stated, UID(sop_class).name


def test_what_is_not_stated_is_refused(shared: Running, facts: Facts) -> None:
    assert _PRINT not in facts.services
    assert accepted(shared, _PRINT, list(STANDARD)) == set()


def test_the_node_says_who_it_is_as_stated(shared: Running, facts: Facts) -> None:
    host, port = shared.scp
    association = AE("ASKER").associate(host, port, [build_context("1.2.840.10008.1.1")], ae_title="DICOMNODE")
    assert association.is_established
    acceptor = association.acceptor
    association.release()
    assert acceptor.maximum_length == facts.policy.max_pdu
