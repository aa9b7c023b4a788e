"""Asking for an association and answering: which contexts, which roles, how large a PDU (PS3.8 7.1, PS3.7 annex D).

Reading strangers' requests is `items`; roles are settled and what we send is encoded by pynetdicom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import SCP_SCU_ROLES, PresentationContext

from dicomnode.config import StoreScpTable
from dicomnode.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.dicom.transfer_syntax import IMPLICIT_VR_LITTLE_ENDIAN, STANDARD
from dicomnode.dicom.uid import is_storage_sop_class
from dicomnode.dimse import items
from dicomnode.dimse.items import Associate, Proposal, Role
from dicomnode.dimse.pdu import Breach, Rejection

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"

# Results of a presentation context (PS3.8 table 9-18).
ACCEPTED = 0
USER_REJECTION = 1
NO_SUCH_ABSTRACT_SYNTAX = 3
NO_SUCH_TRANSFER_SYNTAX = 4


class Context(msgspec.Struct, frozen=True):
    """A presentation context that stands. `as_scu` and `as_scp` are what this end may be in it."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool


class Settled(msgspec.Struct, frozen=True):
    """What both ends have agreed upon. `max_pdu` is the longest P-DATA-TF that the peer takes, in bytes; 0 is any.

    `extended` is the service-class-application-information agreed for a SOP class (PS3.7 D.3.3.5).
    """

    contexts: Mapping[int, Context]
    max_pdu: int
    implementation_class_uid: str
    implementation_version_name: str
    extended: Mapping[str, bytes] = {}


class Policy(msgspec.Struct, frozen=True):
    """What an acceptor agrees to: storage, and the SOP classes in `services`."""

    max_pdu: int
    services: frozenset[str] = frozenset({VERIFICATION})
    unknown_sop_classes: bool = True
    private_transfer_syntaxes: bool = False

    @classmethod
    def of(cls, table: StoreScpTable, services: frozenset[str] = frozenset()) -> Policy:
        """Return the policy that the configuration describes, for a node that offers `services` beside storage."""
        return cls(
            max_pdu=table.max_pdu,
            services=services | {VERIFICATION},
            unknown_sop_classes=table.accept_unknown_sop_classes,
            private_transfer_syntaxes=table.accept_private_transfer_syntaxes,
        )

    def serves(self, abstract_syntax: str) -> bool:
        """Tell whether a presentation context for this SOP class may be accepted."""
        if is_storage_sop_class(abstract_syntax) or abstract_syntax in self.services:
            return True
        # A standard class outside storage is a service that nobody here would answer.
        return self.unknown_sop_classes and abstract_syntax != "" and not UID(abstract_syntax).type

    def syntax(self, proposal: Proposal) -> str:
        """Return the first transfer syntax of `proposal` that can be kept as it is sent, "" for none."""
        return next((syntax for syntax in proposal.transfer_syntaxes if self._takes(syntax)), "")

    def _takes(self, syntax: str) -> bool:
        return syntax in STANDARD or (
            self.private_transfer_syntaxes and syntax != "" and not syntax.startswith("1.2.840.10008.")
        )


def read_request(body: bytes) -> Associate:
    """Return the request in `body`. Raises: Breach; Rejection, where the standard has an answer for what is wrong."""
    request = items.read(body)
    if not request.version & 1:
        raise Rejection("a protocol version that is not 1", 1, 2, 2)
    if request.application_context != APPLICATION_CONTEXT:
        raise Rejection("an application context that is not DICOM's", 1, 1, 2)
    if not request.proposals:
        raise Rejection("no presentation context", 1, 1, 1)
    return request


def negotiate(request: Associate, policy: Policy) -> tuple[Settled, bytes]:
    """Return what is agreed upon, and the A-ASSOCIATE-AC that says so."""
    contexts: dict[int, Context] = {}
    results: list[tuple[int, int, str]] = []
    for proposal in request.proposals:
        result, context = _judge(proposal, request.user.roles.get(proposal.abstract_syntax), policy)
        if context is not None:
            contexts[context.context_id] = context
        syntax = context.transfer_syntax if context else IMPLICIT_VR_LITTLE_ENDIAN
        results.append((proposal.context_id, result, syntax))
    taken = {context.abstract_syntax for context in contexts.values()}
    roles = {uid: role for uid, role in request.user.roles.items() if uid in taken}
    user = request.user
    settled = Settled(contexts, user.max_pdu, user.implementation_class_uid, user.implementation_version_name)
    return settled, _encode_ac(request, results, roles, policy.max_pdu)


def _judge(proposal: Proposal, role: Role | None, policy: Policy) -> tuple[int, Context | None]:
    if not policy.serves(proposal.abstract_syntax):
        return NO_SUCH_ABSTRACT_SYNTAX, None
    syntax = policy.syntax(proposal)
    if not syntax:
        return NO_SUCH_TRANSFER_SYNTAX, None
    asked = (role.scu, role.scp) if role else (None, None)
    # The requestor may have whatever role it asks for, as it can hold what it is given.
    *_, as_scu, as_scp = SCP_SCU_ROLES[asked][(role.scu, role.scp) if role else (None, None)]
    if not as_scu and not as_scp:
        return USER_REJECTION, None
    return ACCEPTED, Context(proposal.context_id, proposal.abstract_syntax, syntax, as_scu, as_scp)


def _encode_ac(
    request: Associate, results: Sequence[tuple[int, int, str]], roles: Mapping[str, Role], max_pdu: int
) -> bytes:
    answer = _primitive(max_pdu, roles)
    answer.result = 0
    contexts = []
    for context_id, result, syntax in results:
        context = PresentationContext()
        context.context_id = context_id
        context.result = result
        context.transfer_syntax = [UID(syntax)]
        contexts.append(context)
    answer.presentation_context_definition_results_list = contexts
    unit = A_ASSOCIATE_AC()
    unit.from_primitive(answer)
    raw = unit.encode()
    # The titles go back exactly as they came (PS3.8 table 9-17).
    return raw[:10] + request.titles + raw[42:]


def _primitive(max_pdu: int, roles: Mapping[str, Role]) -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title = primitive.called_ae_title = "X"
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [length, implementation, version]
    for uid, role in roles.items():
        selection = SCP_SCU_RoleSelectionNegotiation()
        selection.sop_class_uid = UID(uid)
        selection.scu_role = role.scu
        selection.scp_role = role.scp
        primitive.user_information.append(selection)
    return primitive


def encode_request(calling_aet: str, called_aet: str, proposals: Sequence[Proposal], max_pdu: int) -> bytes:
    """Return the A-ASSOCIATE-RQ that asks for `proposals`; ours takes P-DATA-TF of `max_pdu` bytes."""
    primitive = _primitive(max_pdu, {asked.abstract_syntax: asked.role for asked in proposals if asked.role})
    primitive.calling_ae_title = calling_aet
    primitive.called_ae_title = called_aet
    contexts = []
    for proposal in proposals:
        context = PresentationContext()
        context.context_id = proposal.context_id
        context.abstract_syntax = UID(proposal.abstract_syntax)
        context.transfer_syntax = [UID(syntax) for syntax in proposal.transfer_syntaxes]
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    unit = A_ASSOCIATE_RQ()
    unit.from_primitive(primitive)
    return bytes(unit.encode())


def read_acceptance(body: bytes, proposals: Sequence[Proposal]) -> Settled:
    """Return what an A-ASSOCIATE-AC agrees to of `proposals`. Raises: Breach, for an answer that nobody asked for."""
    answer = items.read(body)
    asked = {proposal.context_id: proposal for proposal in proposals}
    contexts = {}
    for told in answer.answers:
        if told.result != ACCEPTED:
            continue
        proposal = asked.get(told.context_id)
        if proposal is None or told.transfer_syntax not in proposal.transfer_syntaxes:
            raise Breach("a presentation context accepted that was not proposed")
        role = _own_role(proposal, answer.user.roles.get(proposal.abstract_syntax))
        contexts[told.context_id] = Context(
            told.context_id, proposal.abstract_syntax, told.transfer_syntax, as_scu=role.scu, as_scp=role.scp
        )
    user = answer.user
    return Settled(contexts, user.max_pdu, user.implementation_class_uid, user.implementation_version_name)


def _own_role(proposal: Proposal, told: Role | None) -> Role:
    """Return what we may be: what we asked for and the acceptor confirms, SCU where it says nothing (PS3.7 D.3.3.4)."""
    if proposal.role is None or told is None:
        return Role(scu=True, scp=False)
    return Role(scu=proposal.role.scu and told.scu, scp=proposal.role.scp and told.scp)


_RJ_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


def read_rejection(body: bytes) -> Rejection:
    """Return what an A-ASSOCIATE-RJ says (PS3.8 table 9-21)."""
    result, source, reason = body[1:4]
    told = _RJ_REASONS.get((source, reason), f"source {source}, reason {reason}")
    lasting = "for now" if result == 2 else "permanently"
    return Rejection(f"the peer refused the association {lasting}: {told}", result, source, reason)
