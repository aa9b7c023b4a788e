"""Association requests and P-DATA as others write them: pynetdicom for the good ones, bytes for the bad ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context

from dicomnode.dimse import command

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def request(
    contexts: Sequence[tuple[str, Sequence[str]]] = ((VERIFICATION, [IMPLICIT]), (CT, [IMPLICIT])),
    *,
    calling: str = "TESTER",
    called: str = "DICOMNODE",
    max_pdu: int = 16384,
    extra: Sequence[Any] = (),
) -> bytes:
    """Return an A-ASSOCIATE-RQ with its head, as pynetdicom encodes it."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3.4")
    primitive.user_information = [length, implementation, *extra]
    built = []
    for i, (abstract, syntaxes) in enumerate(contexts):
        context = build_context(abstract, list(syntaxes))
        context.context_id = 2 * i + 1
        built.append(context)
    primitive.presentation_context_definition_list = built
    unit = A_ASSOCIATE_RQ()
    unit.from_primitive(primitive)
    return bytes(unit.encode())


def role(uid: str, *, scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = UID(uid), scu, scp
    return item


def extended(uid: str, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = UID(uid), information
    return item


def operations_window(invoked: int, performed: int) -> AsynchronousOperationsWindowNegotiation:
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked, item.maximum_number_operations_performed = invoked, performed
    return item


def kin(uid: str, service_class: str, *related: str) -> SOPClassCommonExtendedNegotiation:
    item = SOPClassCommonExtendedNegotiation()
    item.sop_class_uid, item.service_class_uid = UID(uid), UID(service_class)
    item.related_general_sop_class_identification = [UID(one) for one in related]
    return item


def identity(name: bytes, secret: bytes) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.secondary_field = 2, name, secret
    item.positive_response_requested = True
    return item


def item(kind: int, value: bytes, length: int | None = None) -> bytes:
    """Return an item whose length may lie."""
    return struct.pack(">BxH", kind, len(value) if length is None else length) + value


def raw_request(*items: bytes, version: int = 1) -> bytes:
    """Return an A-ASSOCIATE-RQ with its head, of items as given."""
    body = struct.pack(">H2x16s16s32x", version, b"DICOMNODE".ljust(16), b"TESTER".ljust(16)) + b"".join(items)
    return struct.pack(">BxI", 1, len(body)) + body


APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
USER = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))


def context(number: int, abstract: bytes = CT.encode(), *syntaxes: bytes) -> bytes:
    inner = item(0x30, abstract) + b"".join(item(0x40, syntax) for syntax in syntaxes or (IMPLICIT.encode(),))
    return item(0x20, bytes((number, 0, 0, 0)) + inner)


def pdv(context_id: int, control: int, value: bytes) -> bytes:
    return struct.pack(">IBB", len(value) + 2, context_id, control) + value


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxI", 4, len(body)) + body


def store(data: bytes, message_id: int = 1, context_id: int = 3, uid: str = "1.2.3.4") -> bytes:
    """Return a C-STORE-RQ and its data set, a PDU each."""
    return p_data(pdv(context_id, 3, command.encode_store_rq(message_id, CT, uid))) + p_data(pdv(context_id, 2, data))


def echo(message_id: int = 1, context_id: int = 1) -> bytes:
    told = command.Command(command.C_ECHO_RQ, message_id=message_id, affected_sop_class_uid=VERIFICATION)
    return p_data(pdv(context_id, 3, command.encode(told)))
