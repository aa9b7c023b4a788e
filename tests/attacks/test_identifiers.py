"""Row 7: what asks C-FIND, C-MOVE and C-GET, malformed in every way: refused, and the next is answered."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dimse import command, pdu
from tests.attacks.nested import nested
from tests.attacks.peer import Peer
from tests.attacks.watch import survives
from tests.corpus import data_set_of, make, part10
from tests.dimse.requests import EXPLICIT, IMPLICIT, VERIFICATION, p_data, pdv, request
from tests.flows.running import Running
from tests.flows.send import stow
from tests.fuzz.seeds import encoded

PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.", "1.2.840.10008.5.1.4.1.2.2."
WORKLIST, STEP, COMMITMENT = "1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.1.20.1"
OPERATIONS = {
    **{root + "1": (command.C_FIND_RQ,) for root in (PATIENT_ROOT, STUDY_ROOT)},
    **{root + "2": (command.C_MOVE_RQ,) for root in (PATIENT_ROOT, STUDY_ROOT)},
    **{root + "3": (command.C_GET_RQ,) for root in (PATIENT_ROOT, STUDY_ROOT)},
    WORKLIST: (command.C_FIND_RQ,),
    STEP: (command.N_CREATE_RQ, command.N_SET_RQ),
    COMMITMENT: (command.N_ACTION_RQ,),
}
OF_STUDIES = [
    (STUDY_ROOT + "1", command.C_FIND_RQ),
    (STUDY_ROOT + "2", command.C_MOVE_RQ),
    (STUDY_ROOT + "3", command.C_GET_RQ),
]
CONTEXTS = [(VERIFICATION, [IMPLICIT])] + [(uid, [syntax]) for uid in OPERATIONS for syntax in (EXPLICIT, IMPLICIT)]
# What may be said to an identifier, beside success and Cxxx: refused, does not match, not there.
SAID = {0x0000, 0x0001, 0xA700, 0xA701, 0xA702, 0xA801, 0xA900, 0x0122, 0x0124, 0x0211, 0xB000, 0xFE00}
# … and to what N-CREATE, N-SET and N-ACTION bring (PS3.7 annex C).
SAID_TO_STEPS = {
    0x0110,
    0x0105,
    0x0106,
    0x0107,
    0x0111,
    0x0112,
    0x0113,
    0x0114,
    0x0115,
    0x0116,
    0x0117,
    0x0120,
    0x0121,
    0x0123,
    0x0212,
}


def identifier(**attributes: object) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _good() -> Iterator[Dataset]:
    yield identifier(PatientName="DOE*", StudyDate="20260101-20261231", StudyInstanceUID="")
    yield identifier(SpecificCharacterSet="ISO_IR 192", PatientName="J\u00fcr?en*", PatientID="")
    yield identifier(
        QueryRetrieveLevel="IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.3", SOPInstanceUID=["1", "2"]
    )
    item = Dataset()
    item.ScheduledProcedureStepID = "X*"
    yield identifier(QueryRetrieveLevel="SERIES", RequestAttributesSequence=Sequence([item]), StudyInstanceUID="1.2")


def _bad() -> Iterator[tuple[str, bytes]]:
    """Yield identifiers in explicit VR that are wrong, each in one way."""

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    level = element(0x00080052, b"CS", b"STUDY ")
    yield "nothing", b""
    yield "one byte", b"\0"
    yield "text", b"GET / HTTP/1.1\r\n"
    yield "zeros", bytes(500)
    yield "no level", element(0x00100020, b"LO", b"P1")
    yield "a level that is none", element(0x00080052, b"CS", b"HOSPITAL")
    yield "levels", element(0x00080052, b"CS", b"STUDY\\SERIES")
    yield "a level of 60 KB", element(0x00080052, b"CS", b"S" * 60_000)
    yield "a length that lies", level + struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 0xFFFF) + b"P1"
    yield "an unknown VR", level + element(0x00100020, b"ZZ", b"P1")
    yield "a number as text", element(0x00080052, b"US", b"STUDY ")
    for depth in (65, 300, 10_000):
        for undefined in (True, False):
            yield f"{depth} deep", level + nested(depth, tag=0x00400275, undefined=undefined)
    yield "a wild card of 10 KB", level + element(0x00100010, b"PN", b"*a" * 5000)
    yield "question marks", level + element(0x00100010, b"PN", b"?" * 60_000)
    yield "LIKE", level + element(0x00100020, b"LO", b"%_\\%'\";--\0")
    yield "a date that is none", level + element(0x00080020, b"DA", b"yesterday-")
    yield "an endless range", level + element(0x00080020, b"DA", b"-" * 60)
    yield "a time that is none", level + element(0x00080030, b"TM", b"999999-1")
    yield "10,000 UIDs", level + element(0x0020000D, b"UI", b"\\".join([b"1.2"] * 10_000))
    yield "a UID of 60 KB", level + element(0x0020000D, b"UI", b"1" * 60_000)
    yield "a path", level + element(0x0020000D, b"UI", b"../../../etc/passwd\0")
    yield (
        "a charset that is none",
        element(0x00080005, b"CS", b"KLINGON") + level + element(0x00100010, b"PN", b"\xff\xfe"),
    )
    yield (
        "escapes",
        element(0x00080005, b"CS", b"\\ISO 2022 IR 87") + level + element(0x00100010, b"PN", b"\x1b$B" * 99),
    )
    yield "keys twice", level + level + element(0x00100020, b"LO", b"P1") * 2
    yield "keys out of order", element(0x00100020, b"LO", b"P1") + level
    yield "pixel data", level + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    yield "5,000 keys", level + b"".join(element(0x00091000 + n, b"LO", b"x") for n in range(5000))
    yield "2 MB", level + element(0x00104000, b"LT", b"x" * 60_000) * 35


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few bytes changed, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                del changed[at : at + chance.randint(1, 8)]
            case 2:
                changed[at:at] = changed[at : at + 16]
            case _:
                changed[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0", b"\\\\\\\\")
                )
    return bytes(changed)


class Asker(Peer):
    """A peer that asks, and asks for a new association when the node has ended the last."""

    def ask(self, number: int, operation: int, sop_class: str, data: bytes, destination: str = "NOWHERE") -> int | None:
        """Return the last status, None where the node aborted."""
        told = command.Command(
            operation, data_set=True, message_id=1, affected_sop_class_uid=sop_class,
            affected_sop_instance_uid="1.2.3.4" if operation == command.N_CREATE_RQ else "",
            requested_sop_class_uid=sop_class, requested_sop_instance_uid="1.2.3.4", action_type_id=1,
            move_destination=destination if operation == command.C_MOVE_RQ else "",
        )  # fmt: skip
        self.send(p_data(pdv(number, 3, command.encode(told))))
        for at in range(0, max(len(data), 1), 60_000):
            self.send(p_data(pdv(number, 2 if at + 60_000 >= len(data) else 0, data[at : at + 60_000])))
        while (answer := self.pdu()) is not None and answer[0] == pdu.P_DATA_TF:
            if answer[1][5] & 1:
                status = command.decode(answer[1][6:]).status
                assert status is not None
                if status & 0xFFFE != 0xFF00:
                    return status
        return None


def _try(node: Running, asked: list[tuple[str, bytes, str]]) -> dict[tuple[str, str, int], int | None]:
    """Ask everything of every operation; check the answers and return them by what, SOP class and operation."""
    answers: dict[tuple[str, str, int], int | None] = {}
    peer = Asker(node)
    assert peer.associate(request(CONTEXTS)) == pdu.ASSOCIATE_AC
    for what, data, syntax in asked:
        for sop_class, operation in [(uid, field) for uid, fields in OPERATIONS.items() for field in fields]:
            number = 2 * CONTEXTS.index((sop_class, [syntax])) + 1
            status = peer.ask(number, operation, sop_class, data)
            if status is None:
                peer.socket.close()
                peer = Asker(node)
                assert peer.associate(request(CONTEXTS)) == pdu.ASSOCIATE_AC
            else:
                known = status in SAID or status & 0xF000 == 0xC000
                known |= sop_class in (STEP, COMMITMENT) and status in SAID_TO_STEPS
                assert known, f"{what}: {sop_class} {operation:#06x} {status:#06x} {data[:200]!r}"
            answers[what, sop_class, operation] = status
    peer.release()
    return answers


@pytest.fixture(scope="module")
def filled(shared: Running) -> Running:
    for name in ("Doe^Jane", "J\u00fcrgen"):
        assert stow(shared, part10(make(PatientName=name)))[0] == 200
    return shared


def test_what_is_no_identifier_is_refused(filled: Running) -> None:
    with survives(filled):
        answers = _try(filled, [(what, data, EXPLICIT) for what, data in _bad()])
    assert "message.failed" not in filled.told()
    for what in ("text", "no level", "a level that is none", "a length that lies", "300 deep", "10000 deep"):
        for sop_class, operation in OF_STUDIES:
            assert answers[what, sop_class, operation] not in (0, None), what


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_mutations(syntax: object, filled: Running) -> None:
    chance = random.Random(11)
    good = [encoded(ds, syntax) for ds in _good()]  # type: ignore[arg-type]
    asked = [(f"{n}", _mutated(good[n % len(good)], chance), str(syntax)) for n in range(150)]
    with survives(filled):
        answers = _try(filled, [(f"good {n}", data, str(syntax)) for n, data in enumerate(good)])
        assert {answers[f"good {n}", *OF_STUDIES[0]] for n in range(len(good))} == {0}
        told = [status for (_, *where), status in _try(filled, asked).items() if tuple(where) == OF_STUDIES[0]]
        assert len(set(told)) > 1, "some are still understood"
    assert "message.failed" not in filled.told()


def test_an_object_for_an_identifier(filled: Running) -> None:
    with survives(filled):
        _try(filled, [("an object", data_set_of(part10(make())), EXPLICIT)])
    assert "message.failed" not in filled.told()


def test_a_question_of_which_nobody_hears_the_answers(filled: Running) -> None:
    with survives(filled):
        for number in range(50):
            with Asker(filled) as peer:
                assert peer.associate(request(CONTEXTS)) == pdu.ASSOCIATE_AC
                told = command.Command(
                    command.C_FIND_RQ, data_set=True, message_id=1, affected_sop_class_uid=STUDY_ROOT + "1"
                )
                context = 2 * CONTEXTS.index((STUDY_ROOT + "1", [EXPLICIT])) + 1
                data = encoded(identifier(StudyInstanceUID=""), ExplicitVRLittleEndian)
                peer.send(p_data(pdv(context, 3, command.encode(told))) + p_data(pdv(context, 2, data)))
                if number % 2:
                    peer.reset()
    assert "message.failed" not in filled.told()


def test_objects_go_to_known_peers_alone(filled: Running) -> None:
    # Row 16: a destination is a name of the configuration, never an address that a stranger gives.
    ds = make()
    assert stow(filled, part10(ds))[0] == 200
    sop_class = STUDY_ROOT + "2"
    number = 2 * CONTEXTS.index((sop_class, [EXPLICIT])) + 1
    data = encoded(identifier(StudyInstanceUID=ds.StudyInstanceUID), ExplicitVRLittleEndian)
    with socket.create_server(("127.0.0.1", 0)) as victim, survives(filled), Asker(filled) as peer:
        assert peer.associate(request(CONTEXTS)) == pdu.ASSOCIATE_AC
        port = victim.getsockname()[1]
        for destination in (
            f"127.0.0.1:{port}", f"X@127.0.0.1:{port}", f"http://127.0.0.1:{port}/", "169.254.169.254", "localhost",
            "", "TESTER", "../peers", "$(touch x)", "x" * 64, "\\\\host\\share",
        ):  # fmt: skip
            assert peer.ask(number, command.C_MOVE_RQ, sop_class, data, destination) in (0xA801, 0xC000, 0xA900)
        victim.settimeout(0.2)
        with pytest.raises(TimeoutError):
            victim.accept()
        peer.release()
