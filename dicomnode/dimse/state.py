"""The state machine of the upper layer, as the standard's table has it (PS3.8 9.2, table 9-10). No I/O.

States are 1 to 13 (`Sta1` …) and events 1 to 19 (`Evt1` …). The protocol asks what an event means
here, and does it.
"""

from __future__ import annotations

from dicomnode.dimse import pdu

IDLE = 1
AWAITING_REQUEST = 2
AWAITING_DECISION = 3
AWAITING_CONNECTION = 4
AWAITING_ANSWER = 5
ESTABLISHED = 6
RELEASING = 7
RELEASE_ASKED = 8
COLLISION_CONFIRMED = 12
AWAITING_CLOSE = 13

# Events that are not PDUs.
REQUEST = 1
CONNECTED = 2
CONNECTION_ARRIVED = 5
ACCEPT = 7
REJECT = 8
SEND_DATA = 9
RELEASE = 11
ANSWER_RELEASE = 14
ABORT_BY_US = 15
CLOSED = 17
ARTIM_EXPIRED = 18
INVALID_PDU = 19

EVENT_OF_PDU = {
    pdu.ASSOCIATE_AC: 3,
    pdu.ASSOCIATE_RJ: 4,
    pdu.ASSOCIATE_RQ: 6,
    pdu.P_DATA_TF: 10,
    pdu.RELEASE_RQ: 12,
    pdu.RELEASE_RP: 13,
    pdu.ABORT: 16,
}

# Rows are events, columns are states 1 to 13; `.` cannot happen.
_TABLE = """
 1 AE-1 .    .    .    .    .    .    .    .    .     .    .    .
 2 .    .    .    AE-2 .    .    .    .    .    .     .    .    .
 3 .    AA-1 AA-8 .    AE-3 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
 4 .    AA-1 AA-8 .    AE-4 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
 5 AE-5 .    .    .    .    .    .    .    .    .     .    .    .
 6 .    AE-6 AA-8 .    AA-8 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
 7 .    .    AE-7 .    .    .    .    .    .    .     .    .    .
 8 .    .    AE-8 .    .    .    .    .    .    .     .    .    .
 9 .    .    .    .    .    DT-1 .    AR-7 .    .     .    .    .
10 .    AA-1 AA-8 .    AA-8 DT-2 AR-6 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
11 .    .    .    .    .    AR-1 .    .    .    .     .    .    .
12 .    AA-1 AA-8 .    AA-8 AR-2 AR-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
13 .    AA-1 AA-8 .    AA-8 AA-8 AR-3 AA-8 AA-8 AR-10 AR-3 AA-8 AA-6
14 .    .    .    .    .    .    .    AR-4 AR-9 .     .    AR-4 .
15 .    .    AA-1 AA-2 AA-1 AA-1 AA-1 AA-1 AA-1 AA-1  AA-1 AA-1 .
16 .    AA-2 AA-3 .    AA-3 AA-3 AA-3 AA-3 AA-3 AA-3  AA-3 AA-3 AA-2
17 .    AA-5 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4  AA-4 AA-4 AR-5
18 .    AA-2 .    .    .    .    .    .    .    .     .    .    AA-2
19 .    AA-1 AA-8 .    AA-8 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
"""

TRANSITIONS: dict[tuple[int, int], str] = {
    (int(row.split()[0]), state): action
    for row in _TABLE.strip().splitlines()
    for state, action in enumerate(row.split()[1:], 1)
    if action != "."
}

# The state after an action; AR-8 (release collision) depends on who asked for the association.
_AFTER = {
    "AE-1": 4, "AE-2": 5, "AE-3": 6, "AE-4": 1, "AE-5": 2, "AE-6": 3, "AE-7": 6, "AE-8": 13,
    "DT-1": 6, "DT-2": 6,
    "AR-1": 7, "AR-2": 8, "AR-3": 1, "AR-4": 13, "AR-5": 1, "AR-6": 7, "AR-7": 8, "AR-9": 11, "AR-10": 12,
    "AA-1": 13, "AA-2": 1, "AA-3": 1, "AA-4": 1, "AA-5": 1, "AA-6": 13, "AA-7": 13, "AA-8": 13,
}  # fmt: skip


class Machine:
    """One association's state."""

    __slots__ = ("requestor", "state")

    def __init__(self, *, requestor: bool) -> None:
        self.requestor = requestor
        self.state = IDLE

    def step(self, event: int) -> str:
        """Go on to the next state; return the action that the standard wants, "" where the event means nothing here."""
        action = TRANSITIONS.get((event, self.state), "")
        if action == "AR-8":
            self.state = 9 if self.requestor else 10
        elif action:
            self.state = _AFTER[action]
        return action
