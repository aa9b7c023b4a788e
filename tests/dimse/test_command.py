from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE

from dicomnode.dimse import command
from dicomnode.dimse.command import Command
from dicomnode.dimse.pdu import Breach

UIDS = st.lists(st.integers(0, 99999999), min_size=2, max_size=6).map(lambda parts: ".".join(["1", *map(str, parts)]))
WORDS = st.integers(0, 0xFFFF)
CT = "1.2.840.10008.5.1.4.1.1.2"


def _pynetdicom_command(primitive: C_STORE, message: C_STORE_RQ | C_STORE_RSP) -> bytes:
    primitive.DataSet = BytesIO(b"\0\0") if isinstance(message, C_STORE_RQ) else None
    message.primitive_to_message(primitive)
    fragments = [value for pdata in message.encode_msg(1, 0) for _, value in pdata.presentation_data_value_list]
    return b"".join(value[1:] for value in fragments if value[0] & 1)


@settings(deadline=None)
@given(UIDS, UIDS, WORDS)
def test_a_store_request_is_read_as_pynetdicom_writes_it(sop_class: str, sop_instance: str, message_id: int) -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = message_id, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = sop_class, sop_instance
    raw = _pynetdicom_command(primitive, C_STORE_RQ())
    found = command.decode(raw)
    assert found == Command(
        command.C_STORE_RQ,
        data_set=True,
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid=sop_instance,
        priority=2,
    )
    assert command.encode(found) == raw


@settings(deadline=None)
@given(UIDS, UIDS, WORDS, st.sampled_from([0, 0xA700, 0xA900, 0xC000, 0x0110]))
def test_a_store_response_is_written_as_pynetdicom_writes_it(
    sop_class: str, sop_instance: str, message_id: int, status: int
) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo, primitive.Status = message_id, status
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = sop_class, sop_instance
    raw = _pynetdicom_command(primitive, C_STORE_RSP())
    request = Command(
        command.C_STORE_RQ,
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid=sop_instance,
    )
    assert command.encode_store_rsp(request, status) == raw
    assert command.decode(raw).status == status


@settings(deadline=None)
@given(UIDS, UIDS, WORDS)
def test_the_short_ways_write_what_the_long_way_writes(sop_class: str, sop_instance: str, message_id: int) -> None:
    whole = command.encode(
        Command(
            command.C_STORE_RQ,
            data_set=True,
            message_id=message_id,
            affected_sop_class_uid=sop_class,
            affected_sop_instance_uid=sop_instance,
        )
    )
    assert command.encode_store_rq(message_id, sop_class, sop_instance) == whole


@settings(deadline=None)
@given(
    st.builds(
        Command,
        st.sampled_from([0x8001, 0x8020, 0x8021, 0x8130]),
        data_set=st.booleans(),
        responding_to=WORDS,
        affected_sop_class_uid=UIDS,
        status=WORDS,
        error_comment=st.sampled_from(["", "no room", "odd"]),
        error_id=st.none() | WORDS,
        remaining=st.none() | WORDS,
        completed=st.none() | WORDS,
        action_type_id=st.none() | WORDS,
    )
)
def test_what_is_written_is_read_again(told: Command) -> None:
    raw = command.encode(told)
    assert len(raw) % 2 == 0
    assert command.decode(raw) == told


def test_a_cancel_names_the_message_that_it_cancels() -> None:
    raw = command.encode(Command(command.C_CANCEL_RQ, responding_to=7))
    assert command.decode(raw) == Command(command.C_CANCEL_RQ, responding_to=7)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_a_breach(raw: bytes) -> None:
    try:
        found = command.decode(raw)
    except Breach:
        return
    assert 0 <= found.command_field <= 0xFFFF


def test_a_command_that_is_cut_short_is_a_breach_unless_it_is_cut_between_elements() -> None:
    raw = command.encode_store_rq(1, CT, "1.2.3.4")
    ends = []
    at = 0
    while at < len(raw):
        at += 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
        ends.append(at)
    for size in range(len(raw)):
        if size in ends[2:]:  # behind the command field
            assert command.decode(raw[:size]).command_field == command.C_STORE_RQ
        else:
            with pytest.raises(Breach):
                command.decode(raw[:size])


def test_odd_lengths_and_unknown_elements_are_tolerated() -> None:
    raw = command.encode_store_rq(1, CT, "1.2.3.4")
    odd = raw + b"\0\0\x10\x99\x03\0\0\0abc"
    assert command.decode(odd) == command.decode(raw)
