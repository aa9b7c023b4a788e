"""A-ASSOCIATE as we say it, in bytes by pynetdicom (PS3.8 9.3.2, 9.3.3; PS3.7 annex D)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext

from dicomnode.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.dimse.items import Answer, Identity, Proposal, Role, Window

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"


class Said(msgspec.Struct, frozen=True):
    """What we tell or agree to beside the presentation contexts. `max_pdu` in bytes.

    `identity` is who we are, when we ask; `confirmed` says, when we answer, that we know who asks.
    """

    max_pdu: int
    roles: Mapping[str, Role] = {}
    extended: Mapping[str, bytes] = {}
    window: Window | None = None
    identity: Identity | None = None
    confirmed: bool = False


def encode_ac(titles: bytes, answers: Sequence[Answer], said: Said) -> bytes:
    """Return the A-ASSOCIATE-AC that says so; `titles` are the 32 bytes of the request's AE titles."""
    primitive = _primitive(said)
    primitive.result = 0
    primitive.presentation_context_definition_results_list = [_answered(answer) for answer in answers]
    unit = A_ASSOCIATE_AC()
    unit.from_primitive(primitive)
    raw = unit.encode()
    # The titles go back exactly as they came (PS3.8 table 9-17).
    return raw[:10] + titles + raw[42:]


def encode_rq(calling_aet: str, called_aet: str, proposals: Sequence[Proposal], said: Said) -> bytes:
    """Return the A-ASSOCIATE-RQ that asks for `proposals`."""
    primitive = _primitive(said)
    primitive.calling_ae_title = calling_aet
    primitive.called_ae_title = called_aet
    primitive.presentation_context_definition_list = [_proposed(proposal) for proposal in proposals]
    unit = A_ASSOCIATE_RQ()
    unit.from_primitive(primitive)
    return bytes(unit.encode())


def _answered(answer: Answer) -> PresentationContext:
    context = PresentationContext()
    context.context_id = answer.context_id
    context.result = answer.result
    context.transfer_syntax = [UID(answer.transfer_syntax)]
    return context


def _proposed(proposal: Proposal) -> PresentationContext:
    context = PresentationContext()
    context.context_id = proposal.context_id
    context.abstract_syntax = UID(proposal.abstract_syntax)
    context.transfer_syntax = [UID(syntax) for syntax in proposal.transfer_syntaxes]
    return context


def _primitive(said: Said) -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title = primitive.called_ae_title = "X"
    length = MaximumLengthNotification()
    length.maximum_length_received = said.max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [length, implementation, version, *_negotiated(said)]
    return primitive


def _negotiated(said: Said) -> list[Any]:
    told: list[Any] = []
    if said.window is not None:
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = said.window.invoked
        window.maximum_number_operations_performed = said.window.performed
        told.append(window)
    for uid, role in said.roles.items():
        selection = SCP_SCU_RoleSelectionNegotiation()
        selection.sop_class_uid, selection.scu_role, selection.scp_role = UID(uid), role.scu, role.scp
        told.append(selection)
    for uid, information in said.extended.items():
        extended = SOPClassExtendedNegotiation()
        extended.sop_class_uid, extended.service_class_application_information = UID(uid), information
        told.append(extended)
    if said.identity is not None or said.confirmed:
        told.append(_identity(said.identity))
    return told


def _identity(identity: Identity | None) -> UserIdentityNegotiation:
    """Return who we say we are, or, None, that the identity of the other is confirmed."""
    item = UserIdentityNegotiation()
    if identity is None:
        item.server_response = b""
        return item
    item.user_identity_type = identity.kind
    item.positive_response_requested = identity.answer_wanted
    item.primary_field = identity.primary
    if identity.secondary:
        item.secondary_field = identity.secondary
    return item
