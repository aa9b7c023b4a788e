"""Asking for an association and answering: which contexts, which roles, how large a PDU (PS3.8 7.1, PS3.7 annex D).

Reading strangers' requests is `items`; what we send is put into bytes by `encode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dicomnode.config import StoreScpTable
from dicomnode.dicom.transfer_syntax import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STANDARD,
)
from dicomnode.dicom.uid import is_registered, is_storage_sop_class, is_uid
from dicomnode.dimse import items
from dicomnode.dimse.encode import APPLICATION_CONTEXT, Said, encode_ac, encode_rq
from dicomnode.dimse.items import Answer, Associate, Identity, Kinship, Proposal, Role, UserInformation, Window
from dicomnode.dimse.pdu import Breach, Rejection
from dicomnode.dimse.service import COMMIT, ECHO, EVERY, GET, STORE, VERIFICATION, service_of

# Results of a presentation context (PS3.8 table 9-18).
ACCEPTED = 0
USER_REJECTION = 1
NO_SUCH_ABSTRACT_SYNTAX = 3
NO_SUCH_TRANSFER_SYNTAX = 4

STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"
# Every attribute is kept and none changed; of digital signatures nothing is promised (PS3.4 B.3.1.4).
_STORAGE_LEVEL = bytes((2, 0, 0, 0, 0, 0))

_UNCOMPRESSED = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN})


class Context(msgspec.Struct, frozen=True):
    """A presentation context that stands. `as_scu` and `as_scp` are what this end may be in it."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool


class Settled(msgspec.Struct, frozen=True):
    """What both ends have agreed upon. `max_pdu` is the longest P-DATA-TF that the peer takes, in bytes; 0 is any.

    `extended` is the service-class-application-information agreed for a SOP class (PS3.7 D.3.3.5). `window` is how many
    requests of ours may wait for their responses at a time (PS3.7 D.3.3.3). `confirmed`: the peer knows who we are.
    """

    contexts: Mapping[int, Context]
    max_pdu: int
    implementation_class_uid: str
    implementation_version_name: str
    extended: Mapping[str, bytes] = {}
    window: int = 1
    confirmed: bool = False


class Asking(msgspec.Struct, frozen=True):
    """What a requestor asks for beside presentation contexts. `window`: requests that may wait at a time."""

    window: int = 1
    extended: Mapping[str, bytes] = {}
    identity: Identity | None = None


Agree = Callable[[str, bytes], bytes | None]
"""What is agreed of the extended negotiation asked for a SOP class; None where there is nothing to agree on."""


def agree_on_nothing(sop_class_uid: str, asked: bytes) -> bytes | None:
    """Leave an item of extended negotiation without an answer."""
    return None


class Policy(msgspec.Struct, frozen=True):
    """What an acceptor agrees to: storage, and the SOP classes in `services`, as far as the peer is `allowed` to ask.

    `operations_invoked`: how many requests a peer may have waiting. `agree`: on extended negotiation, but for storage.
    """

    max_pdu: int
    services: frozenset[str] = frozenset({VERIFICATION})
    unknown_sop_classes: bool = True
    private_transfer_syntaxes: bool = False
    allowed: frozenset[str] = EVERY
    operations_invoked: int = 1
    agree: Agree = agree_on_nothing

    @classmethod
    def of(
        cls, table: StoreScpTable, services: frozenset[str] = frozenset(), agree: Agree = agree_on_nothing
    ) -> Policy:
        """Return the policy that the configuration describes, for a node that offers `services` beside storage."""
        return cls(
            max_pdu=table.max_pdu,
            services=services | {VERIFICATION},
            unknown_sop_classes=table.accept_unknown_sop_classes,
            private_transfer_syntaxes=table.accept_private_transfer_syntaxes,
            operations_invoked=table.operations_invoked,
            agree=agree,
        )

    def of_peer(self, allowed: frozenset[str]) -> Policy:
        """Return the policy for a peer that may ask for these services only."""
        return self if allowed == self.allowed else msgspec.structs.replace(self, allowed=allowed)

    def serves(self, abstract_syntax: str, kinship: Kinship | None = None) -> bool:
        """Tell whether a presentation context for this SOP class may be accepted, from some peer at least."""
        if is_storage_sop_class(abstract_syntax) or abstract_syntax in self.services:
            return True
        # A standard class outside storage is a service that nobody here would answer.
        if abstract_syntax == "" or is_registered(abstract_syntax):
            return False
        return self.unknown_sop_classes or (kinship is not None and _is_storage(kinship))

    def role(self, abstract_syntax: str, asked: Role | None) -> Role:
        """Return what the requestor may be: SCP only of storage, for C-GET, and of the commitment of what we sent."""
        scu, scp = (asked.scu, asked.scp) if asked else (True, False)
        service = service_of(abstract_syntax)
        # What it is sent for C-GET is not what it may store here.
        as_scp = {STORE: GET, COMMIT: COMMIT}.get(service)
        return Role(scu and service in self.allowed, scp and as_scp in self.allowed)

    def window(self, asked: Window | None, contexts: Mapping[int, Context]) -> Window | None:
        """Return how many operations may be under way; requests are answered in turn, and ours are made one by one.

        More than one may wait only where no response of the peer's to us is waited for meanwhile, as in C-GET.
        """
        if asked is None:
            return None
        if all(service_of(context.abstract_syntax) in (STORE, ECHO) for context in contexts.values()):
            return Window(min(asked.invoked or self.operations_invoked, self.operations_invoked), 1)
        return Window(1, 1)

    def extended(self, user: UserInformation, contexts: Mapping[int, Context]) -> dict[str, bytes]:
        """Return what is agreed of the extended negotiation of accepted SOP classes (PS3.7 D.3.3.5)."""
        agreed: dict[str, bytes] = {}
        for uid in {context.abstract_syntax for context in contexts.values()} & user.extended.keys():
            asked = user.extended[uid]
            answer = _STORAGE_LEVEL if service_of(uid) == STORE else self.agree(uid, asked)
            if answer is not None:
                agreed[uid] = answer
        return agreed

    def syntax(self, proposal: Proposal) -> str:
        """Return the first transfer syntax of `proposal` that can be kept as it is sent, "" for none.

        Services other than storage speak in uncompressed ones only.
        """
        if proposal.abstract_syntax in self.services:
            return next((syntax for syntax in proposal.transfer_syntaxes if syntax in _UNCOMPRESSED), "")
        return next((syntax for syntax in proposal.transfer_syntaxes if self._takes(syntax)), "")

    def _takes(self, syntax: str) -> bool:
        return syntax in STANDARD or (
            self.private_transfer_syntaxes and is_uid(syntax) and not syntax.startswith("1.2.840.10008.")
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


def negotiate(request: Associate, policy: Policy, *, confirmed: bool = False) -> tuple[Settled, bytes]:
    """Return what is agreed upon, and the A-ASSOCIATE-AC that says so; `confirmed`: the user's identity was checked."""
    user = request.user
    contexts: dict[int, Context] = {}
    answers: list[Answer] = []
    for proposal in request.proposals:
        result, context = _judge(proposal, user, policy)
        if context is not None:
            contexts[context.context_id] = context
        syntax = context.transfer_syntax if context else IMPLICIT_VR_LITTLE_ENDIAN
        answers.append(Answer(proposal.context_id, result, syntax))
    roles = {
        context.abstract_syntax: Role(scu=context.as_scp, scp=context.as_scu)
        for context in contexts.values()
        if context.abstract_syntax in user.roles
    }
    confirmed = confirmed and user.identity is not None and user.identity.answer_wanted
    extended, window = policy.extended(user, contexts), policy.window(user.window, contexts)
    settled = Settled(contexts, user.max_pdu, user.implementation_class_uid, user.implementation_version_name, extended)
    said = Said(policy.max_pdu, roles, extended, window, confirmed=confirmed)
    return settled, encode_ac(request.titles, answers, said)


def _judge(proposal: Proposal, user: UserInformation, policy: Policy) -> tuple[int, Context | None]:
    abstract = proposal.abstract_syntax
    if not policy.serves(abstract, user.kinships.get(abstract)):
        return NO_SUCH_ABSTRACT_SYNTAX, None
    role = policy.role(abstract, user.roles.get(abstract))
    if not role.scu and not role.scp:
        return USER_REJECTION, None
    syntax = policy.syntax(proposal)
    if not syntax:
        return NO_SUCH_TRANSFER_SYNTAX, None
    return ACCEPTED, Context(proposal.context_id, abstract, syntax, as_scu=role.scp, as_scp=role.scu)


def _is_storage(kinship: Kinship) -> bool:
    return kinship.service_class_uid == STORAGE_SERVICE_CLASS or any(map(is_storage_sop_class, kinship.related))


def encode_request(
    calling_aet: str, called_aet: str, proposals: Sequence[Proposal], max_pdu: int, asking: Asking | None = None
) -> bytes:
    """Return the A-ASSOCIATE-RQ that asks for `proposals`; ours takes P-DATA-TF of `max_pdu` bytes."""
    asking = asking or Asking()
    roles = {asked.abstract_syntax: asked.role for asked in proposals if asked.role}
    window = Window(asking.window, 1) if asking.window != 1 else None
    said = Said(max_pdu, roles, asking.extended, window, asking.identity)
    return encode_rq(calling_aet, called_aet, proposals, said)


def read_acceptance(body: bytes, proposals: Sequence[Proposal], asking: Asking | None = None) -> Settled:
    """Return what an A-ASSOCIATE-AC agrees to of what was asked for. Raises: Breach, for an answer to nothing."""
    asking = asking or Asking()
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
    return Settled(
        contexts, user.max_pdu, user.implementation_class_uid, user.implementation_version_name,
        {uid: agreed for uid, agreed in user.extended.items() if uid in asking.extended},
        _granted(asking.window, user.window), user.confirmed and asking.identity is not None,
    )  # fmt: skip


def _granted(asked: int, told: Window | None) -> int:
    """Return how many requests may wait: what was asked for at most, one where the acceptor says nothing."""
    if told is None:
        return 1
    return min(asked, told.invoked) if told.invoked else asked


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
