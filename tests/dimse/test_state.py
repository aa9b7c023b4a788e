from __future__ import annotations

import pytest
from pynetdicom.fsm import TRANSITION_TABLE

from dicomnode.dimse import pdu, state

ORACLE = {(int(event[3:]), int(at[3:])): action for (event, at), action in TRANSITION_TABLE.items()}


def test_the_table_is_that_of_pynetdicom_but_for_what_the_standard_says_otherwise() -> None:
    ours = dict(state.TRANSITIONS)
    differing = {key for key in ORACLE.keys() | ours.keys() if ORACLE.get(key) != ours.get(key)}
    # PS3.8 table 9-10: in Sta3 and Sta13 an A-ABORT and an A-ASSOCIATE-RQ as in pynetdicom; nothing else differs.
    assert differing == set()


def test_every_event_of_a_pdu_means_something_wherever_pdus_can_come() -> None:
    for event in state.EVENT_OF_PDU.values():
        for at in (2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13):
            assert (event, at) in state.TRANSITIONS


@pytest.mark.parametrize(("requestor", "at", "end"), [(True, 9, "AR-9"), (False, 10, "AR-10")])
def test_a_release_collision_depends_on_the_role(requestor: bool, at: int, end: str) -> None:
    machine = state.Machine(requestor=requestor)
    machine.state = state.ESTABLISHED
    assert machine.step(state.RELEASE) == "AR-1"
    assert machine.step(state.EVENT_OF_PDU[pdu.RELEASE_RQ]) == "AR-8"
    assert machine.state == at
    event = state.ANSWER_RELEASE if requestor else state.EVENT_OF_PDU[pdu.RELEASE_RP]
    assert machine.step(event) == end


def test_an_acceptor_goes_through_an_association() -> None:
    machine = state.Machine(requestor=False)
    seen = [
        machine.step(event)
        for event in (
            state.CONNECTION_ARRIVED,
            state.EVENT_OF_PDU[pdu.ASSOCIATE_RQ],
            state.ACCEPT,
            state.EVENT_OF_PDU[pdu.P_DATA_TF],
            state.SEND_DATA,
            state.EVENT_OF_PDU[pdu.RELEASE_RQ],
            state.SEND_DATA,
            state.ANSWER_RELEASE,
            state.CLOSED,
        )
    ]
    assert seen == ["AE-5", "AE-6", "AE-7", "DT-2", "DT-1", "AR-2", "AR-7", "AR-4", "AR-5"]
    assert machine.state == state.IDLE


def test_what_cannot_happen_changes_nothing() -> None:
    machine = state.Machine(requestor=True)
    assert machine.step(state.SEND_DATA) == ""
    assert machine.state == state.IDLE
