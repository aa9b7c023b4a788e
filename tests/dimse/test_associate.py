from __future__ import annotations

import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from dicomnode.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.dicom.transfer_syntax import STANDARD
from dicomnode.dicom.uid import is_uid
from dicomnode.dimse import associate, items, pdu
from dicomnode.dimse.associate import Asking, Policy
from dicomnode.dimse.encode import Said, encode_ac
from dicomnode.dimse.items import Answer, Associate, Kinship, Proposal, Role, Window
from dicomnode.dimse.pdu import Breach, Rejection
from tests.dimse.requests import (
    APPLICATION,
    CT,
    EXPLICIT,
    IMPLICIT,
    USER,
    VERIFICATION,
    context,
    extended,
    identity,
    item,
    kin,
    operations_window,
    raw_request,
    request,
    role,
)

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMMITMENT = "1.2.840.10008.1.20.1"
PRIVATE = "1.2.276.0.99.1"
POLICY = Policy(max_pdu=1024 * 1024)


def _read(raw: bytes) -> Associate:
    return associate.read_request(raw[6:])


def _answers(raw: bytes, policy: Policy = POLICY) -> list[tuple[int | None, int | None, str]]:
    _, answer = associate.negotiate(_read(raw), policy)
    unit = A_ASSOCIATE_AC()
    unit.decode(answer)
    return [(c.context_id, c.result, str(c.transfer_syntax)) for c in unit.presentation_context]


def test_a_request_is_read_as_pynetdicom_wrote_it() -> None:
    extra = [
        role(CT, scu=True, scp=True), extended(FIND, b"\1\1"), identity(b"me", b"secret"),
        operations_window(3, 0), kin(PRIVATE, "1.2.840.10008.4.2", CT, FIND),
    ]  # fmt: skip
    found = _read(request([(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT, IMPLICIT])], max_pdu=5000, extra=extra))
    assert (found.calling_aet, found.called_aet) == ("TESTER", "DICOMNODE")
    assert found.proposals == (Proposal(1, VERIFICATION, (IMPLICIT,)), Proposal(3, CT, (EXPLICIT, IMPLICIT)))
    assert found.user.max_pdu == 5000
    assert found.user.implementation_class_uid == "1.2.3.4"
    assert found.user.roles == {CT: Role(scu=True, scp=True)}
    assert found.user.extended == {FIND: b"\1\1"}
    assert found.user.identity == items.Identity(2, True, b"me", b"secret")
    assert found.user.window == Window(3, 0)
    assert found.user.kinships == {PRIVATE: Kinship("1.2.840.10008.4.2", (CT, FIND))}
    assert "secret" not in repr(found)


def test_we_say_who_made_us() -> None:
    answer = associate.negotiate(_read(request()), POLICY)[1]
    for raw in (answer, associate.encode_request("ME", "YOU", [Proposal(1, CT, (EXPLICIT,))], 16384)):
        told = items.read(raw[6:]).user
        assert told.implementation_class_uid == IMPLEMENTATION_CLASS_UID
        assert told.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    assert is_uid(IMPLEMENTATION_CLASS_UID)
    assert not IMPLEMENTATION_CLASS_UID.startswith("1.2.826.0.1.3680043.9.3811")  # not pynetdicom's
    assert 1 <= len(IMPLEMENTATION_VERSION_NAME) <= 16


def test_our_request_is_read_by_pynetdicom() -> None:
    raw = associate.encode_request("ME", "YOU", [Proposal(1, CT, (EXPLICIT, IMPLICIT))], 65536)
    unit = A_ASSOCIATE_RQ()
    unit.decode(raw)
    assert (unit.calling_ae_title.strip(), unit.called_ae_title.strip()) == ("ME", "YOU")
    assert [str(s) for s in unit.presentation_context[0].transfer_syntax] == [EXPLICIT, IMPLICIT]
    assert unit.user_information is not None
    assert unit.user_information.maximum_length == 65536


def test_the_first_acceptable_syntax_of_the_proposer_is_taken() -> None:
    raw = request([(CT, ["1.2.840.10008.1.2.4.90", EXPLICIT]), (CT, [IMPLICIT, EXPLICIT]), (CT, ["1.2.3", EXPLICIT])])
    assert [syntax for _, _, syntax in _answers(raw)] == ["1.2.840.10008.1.2.4.90", IMPLICIT, EXPLICIT]


@pytest.mark.parametrize("syntax", sorted(STANDARD))
def test_every_standard_syntax_is_kept_as_sent(syntax: str) -> None:
    assert _answers(request([(CT, [syntax])])) == [(1, 0, syntax)]


def test_private_syntaxes_are_taken_when_the_operator_says_so() -> None:
    raw = request([(CT, ["1.2.3.4.5"])])
    assert [result for _, result, _ in _answers(raw)] == [associate.NO_SUCH_TRANSFER_SYNTAX]
    assert _answers(raw, Policy(16384, private_transfer_syntaxes=True)) == [(1, 0, "1.2.3.4.5")]


def test_services_that_nobody_would_answer_are_refused() -> None:
    raw = request([(FIND, [IMPLICIT]), (PRIVATE, [IMPLICIT]), (CT, [IMPLICIT])])
    assert [result for _, result, _ in _answers(raw)] == [associate.NO_SUCH_ABSTRACT_SYNTAX, 0, 0]
    strict = Policy(16384, unknown_sop_classes=False)
    assert [result for _, result, _ in _answers(raw, strict)] == [3, 3, 0]


@pytest.mark.parametrize(
    ("scu", "scp", "as_scu", "as_scp"),
    [(True, False, False, True), (True, True, True, True), (False, True, True, False)],
)
def test_roles_are_what_the_requestor_asks_for(scu: bool, scp: bool, as_scu: bool, as_scp: bool) -> None:
    settled, answer = associate.negotiate(
        _read(request([(CT, [IMPLICIT])], extra=[role(CT, scu=scu, scp=scp)])), POLICY
    )
    assert (settled.contexts[1].as_scu, settled.contexts[1].as_scp) == (as_scu, as_scp)
    told = items.read(answer[6:]).user.roles
    assert told == {CT: Role(scu=scu, scp=scp)}


def test_a_context_without_any_role_is_refused() -> None:
    selection = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\0\0")
    settled, _ = associate.negotiate(_read(raw_request(APPLICATION, context(1), item(0x50, selection))), POLICY)
    assert not settled.contexts


@pytest.mark.parametrize("uid", [VERIFICATION, FIND])
def test_only_of_storage_and_commitment_may_a_requestor_be_scp(uid: str) -> None:
    policy = Policy(16384, frozenset({VERIFICATION, FIND, COMMITMENT}))
    for abstract, granted in ((uid, False), (CT, True), (COMMITMENT, True)):
        raw = request([(abstract, [IMPLICIT])], extra=[role(abstract, scu=True, scp=True)])
        settled, answer = associate.negotiate(_read(raw), policy)
        assert (settled.contexts[1].as_scp, settled.contexts[1].as_scu) == (True, granted)
        assert items.read(answer[6:]).user.roles == {abstract: Role(scu=True, scp=granted)}


def test_a_role_that_nobody_takes_is_refused_and_not_answered() -> None:
    raw = request([(FIND, [IMPLICIT])], extra=[role(FIND, scu=False, scp=True)])
    settled, answer = associate.negotiate(_read(raw), Policy(16384, frozenset({FIND})))
    assert not settled.contexts
    assert items.read(answer[6:]).user.roles == {}


def _window(raw: bytes, policy: Policy) -> Window | None:
    _, answer = associate.negotiate(_read(raw), policy)
    unit = A_ASSOCIATE_AC()
    unit.decode(answer)
    told = items.read(answer[6:]).user.window
    assert unit.user_information is not None
    theirs = unit.user_information.async_ops_window
    assert (theirs is None) == (told is None)
    if theirs is not None and told is not None:
        invoked, performed = theirs.maximum_number_operations_invoked, theirs.maximum_number_operations_performed
        assert (told.invoked, told.performed) == (invoked, performed)
    return told


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ((1, 1), (1, 1)),
        ((5, 5), (5, 1)),
        ((16, 1), (16, 1)),
        ((17, 0), (16, 1)),
        ((0, 0), (16, 1)),
        ((65535, 1), (16, 1)),
    ],
)
def test_a_window_is_granted_where_only_objects_are_sent(asked: tuple[int, int], granted: tuple[int, int]) -> None:
    policy = Policy(16384, frozenset({VERIFICATION, FIND}), operations_invoked=16)
    window = operations_window(*asked)
    assert _window(request(extra=[window]), policy) == Window(*granted)
    # A request that waits must not stand before the responses that C-GET waits for.
    assert _window(request([(CT, [IMPLICIT]), (FIND, [IMPLICIT])], extra=[window]), policy) == Window(1, 1)
    # A service that is refused changes nothing.
    move = "1.2.840.10008.5.1.4.1.2.2.2"
    assert _window(request([(CT, [IMPLICIT]), (move, [IMPLICIT])], extra=[window]), policy) == Window(*granted)


def test_without_a_request_for_a_window_none_is_told() -> None:
    assert _window(request(), POLICY) is None


@pytest.mark.parametrize(("asked", "told", "granted"), [(8, 4, 4), (8, 99, 8), (8, 0, 8), (8, None, 1), (1, 4, 1)])
def test_our_window_is_what_was_asked_for_and_granted(asked: int, told: int | None, granted: int) -> None:
    proposals = [Proposal(1, CT, (EXPLICIT,))]
    raw = associate.encode_request("A", "B", proposals, 16384, Asking(window=asked))
    assert _read(raw).user.window == (Window(asked, 1) if asked > 1 else None)
    said = Said(16384, window=Window(told, 1) if told is not None else None)
    answer = encode_ac(raw[10:42], [Answer(1, 0, EXPLICIT)], said)
    assert associate.read_acceptance(answer[6:], proposals, Asking(window=asked)).window == granted


def test_extended_negotiation_is_answered_by_who_serves_it() -> None:
    def agree(uid: str, asked: bytes) -> bytes | None:
        return bytes(byte & 1 for byte in asked) if uid == FIND else None

    move = "1.2.840.10008.5.1.4.1.2.2.2"
    policy = Policy(16384, frozenset({VERIFICATION, FIND, move}), agree=agree)
    contexts = [(FIND, [IMPLICIT]), (move, [IMPLICIT]), (CT, [IMPLICIT]), (CT + ".9", ["1.2.3"])]
    asked = {FIND: b"\1\2\3", move: b"\1", CT: b"\2\0\3\0\1\0", CT + ".9": b"\2\0\3\0\1\0", VERIFICATION: b"\1"}
    raw = request(contexts, extra=[extended(uid, told) for uid, told in asked.items()])
    settled, answer = associate.negotiate(_read(raw), policy)
    # Of storage: every attribute is kept and none changed. What was not proposed or not accepted is not answered.
    assert settled.extended == {FIND: b"\1\0\1", CT: b"\2\0\0\0\0\0"}
    unit = A_ASSOCIATE_AC()
    unit.decode(answer)
    assert unit.user_information is not None
    theirs = {str(i.sop_class_uid): i.service_class_application_information for i in unit.user_information.ext_neg}
    assert theirs == settled.extended


def test_what_we_ask_for_in_extended_negotiation_is_read_when_it_is_agreed() -> None:
    proposals = [Proposal(1, FIND, (IMPLICIT,))]
    asking = Asking(extended={FIND: b"\1\1\1"})
    policy = Policy(16384, frozenset({FIND}), agree=lambda _uid, _asked: b"\1\0\1")
    raw = associate.encode_request("A", "B", proposals, 16384, asking)
    _, answer = associate.negotiate(_read(raw), policy)
    assert associate.read_acceptance(answer[6:], proposals, asking).extended == {FIND: b"\1\0\1"}
    assert associate.read_acceptance(answer[6:], proposals).extended == {}


STORAGE_SERVICE = "1.2.840.10008.4.2"


@pytest.mark.parametrize(
    ("uid", "service", "related", "taken"),
    [
        (PRIVATE, STORAGE_SERVICE, (), True),
        (PRIVATE, "1.2.840.10008.4.1", (CT,), True),
        (PRIVATE, "1.2.840.10008.4.1", (FIND, "1.2.3"), False),
        (FIND, STORAGE_SERVICE, (CT,), False),  # a service that the standard knows is no storage, whatever it says
    ],
)
def test_a_sop_class_that_is_kin_to_storage_is_taken(
    uid: str, service: str, related: tuple[str, ...], taken: bool
) -> None:
    policy = Policy(16384, unknown_sop_classes=False)
    for extra in ([], [kin(uid, service, *related)]):
        settled, _ = associate.negotiate(_read(request([(uid, [IMPLICIT])], extra=extra)), policy)
        assert bool(settled.contexts) is (taken and bool(extra))


def test_the_titles_go_back_as_they_came() -> None:
    raw = raw_request(APPLICATION, context(1), USER)
    _, answer = associate.negotiate(_read(raw), POLICY)
    assert answer[10:42] == raw[10:42]


def test_an_answer_is_read_by_the_end_that_asked() -> None:
    asked = [Proposal(1, CT, (EXPLICIT, IMPLICIT)), Proposal(3, FIND, (IMPLICIT,))]
    _, answer = associate.negotiate(_read(associate.encode_request("A", "B", asked, 16384)), POLICY)
    settled = associate.read_acceptance(answer[6:], asked)
    assert settled.max_pdu == 1024 * 1024
    assert [(c.context_id, c.transfer_syntax) for c in settled.contexts.values()] == [(1, EXPLICIT)]
    with pytest.raises(Breach):
        associate.read_acceptance(answer[6:], [Proposal(5, CT, (EXPLICIT,))])


@pytest.mark.parametrize("result", [1, 2])
@pytest.mark.parametrize(("source", "reason"), [(1, 3), (1, 7), (3, 2), (2, 2), (9, 9)])
def test_a_rejection_is_read_as_it_was_meant(result: int, source: int, reason: int) -> None:
    raw = pdu.associate_rj(Rejection("", result, source, reason))
    found = associate.read_rejection(raw[6:])
    assert (found.result, found.source, found.reason, found.transient) == (result, source, reason, result == 2)
    if source != 9:
        unit = A_ASSOCIATE_RJ()
        unit.decode(raw)
        assert unit.reason_str


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (raw_request(APPLICATION, context(1), USER, version=2), (1, 2, 2)),
        (raw_request(item(0x10, b"1.2.3"), context(1), USER), (1, 1, 2)),
        (raw_request(context(1), USER), (1, 1, 2)),
        (raw_request(APPLICATION, USER), (1, 1, 1)),
    ],
)
def test_what_the_standard_has_an_answer_for_is_rejected(raw: bytes, answer: tuple[int, int, int]) -> None:
    with pytest.raises(Rejection) as caught:
        _read(raw)
    assert (caught.value.result, caught.value.source, caught.value.reason) == answer


SELECTION = struct.pack(">H", 30) + CT.encode() + b"\1\1"
LYING = {
    "an item longer than the PDU": raw_request(APPLICATION, item(0x20, b"\1\0\0\0", 60000)),
    "half an item's head": raw_request(APPLICATION, b"\x20\0"),
    "a sub-item longer than its context": raw_request(APPLICATION, item(0x20, b"\1\0\0\0" + item(0x30, b"1.2", 99))),
    "a context of three bytes": raw_request(APPLICATION, item(0x20, b"\1\0\0")),
    "an even context ID": raw_request(APPLICATION, context(2), USER),
    "a context ID twice": raw_request(APPLICATION, context(1), context(1), USER),
    "a user item longer than the user information": raw_request(APPLICATION, item(0x50, item(0x51, b"", 4))),
    "a maximum length of two bytes": raw_request(APPLICATION, item(0x50, item(0x51, b"\0\1"))),
    "a role selection whose UID lies": raw_request(APPLICATION, item(0x50, item(0x54, SELECTION))),
    "a role selection without roles": raw_request(APPLICATION, item(0x50, item(0x54, b"\0\3" + b"1.2"))),
    "a user identity that lies": raw_request(APPLICATION, item(0x50, item(0x58, b"\1\0\xff\xffabc"))),
    "a window of three bytes": raw_request(APPLICATION, item(0x50, item(0x53, b"\0\1\0"))),
    "a kinship whose UID lies": raw_request(APPLICATION, item(0x50, item(0x57, b"\0\x09" + b"1.2"))),
    "a kinship whose service lies": raw_request(APPLICATION, item(0x50, item(0x57, b"\0\3" + b"1.2" + b"\0\x09"))),
    "a kinship whose list lies": raw_request(APPLICATION, item(0x50, item(0x57, b"\0\3" + b"1.2" + b"\0\0\0\x09"))),
    "a kinship to 1,000 classes": raw_request(
        APPLICATION, item(0x50, item(0x57, b"\0\3" + b"1.2" + b"\0\0" + struct.pack(">H", 5000) + b"\0\x031.3" * 1000))
    ),
    "user information as deep as it goes": raw_request(APPLICATION, item(0x50, b"\x50\0\xff\xff" * 100)),
    "200 contexts": raw_request(APPLICATION, *(context(1) for _ in range(200))),
    "1,000 tiny items": raw_request(*(item(0x99, b"") for _ in range(1000))),
    "1,000 transfer syntaxes": raw_request(APPLICATION, context(1, CT.encode(), *[b"1.2"] * 1000)),
    "10,000 user items": raw_request(APPLICATION, item(0x50, item(0x99, b"") * 10000)),
}


@pytest.mark.parametrize("raw", LYING.values(), ids=LYING.keys())
def test_what_lies_is_a_breach(raw: bytes) -> None:
    with pytest.raises(Breach):
        _read(raw)


def test_items_that_are_not_known_are_passed_over() -> None:
    raw = raw_request(
        item(0x99, b"what"), APPLICATION, context(1), item(0x50, item(0x51, b"\0\0\x40\0") + item(0x99, b""))
    )
    assert _read(raw).user.max_pdu == 16384


def test_what_is_no_uid_is_refused_and_not_repeated() -> None:
    raw = raw_request(APPLICATION, context(1, b"1.2\r\n<script>"), context(3, CT.encode(), b"1." + b"2" * 90), USER)
    found = _read(raw)
    assert [p.abstract_syntax for p in found.proposals] == ["", CT]
    assert [result for _, result, _ in _answers(raw)] == [3, 4]


@pytest.mark.parametrize("uid", [b"1.2..3", b"01.2.3", b"...", b"1.", b"1.2.3"])
def test_an_odd_uid_is_taken_and_neither_repeated_nor_warned_of(uid: bytes) -> None:
    told = struct.pack(">H", len(uid)) + uid + b"\1\1"
    user = item(0x50, item(0x51, b"\0\0\x40\0") + item(0x54, told) + item(0x56, told))
    raw = raw_request(APPLICATION, context(1, uid), context(3, uid, b"1.2..4"), user)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settled, answer = associate.negotiate(_read(raw), Policy(16384, private_transfer_syntaxes=True))
    assert list(settled.contexts) == [1]
    found = items.read(answer[6:]).user
    assert list(found.roles) == list(found.extended) == ([uid.decode()] if uid == b"1.2.3" else [])


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_items_are_read_or_refused(tail: bytes) -> None:
    try:
        found = _read(raw_request(APPLICATION, context(1), tail))
    except (Breach, Rejection):
        return
    assert found.proposals


_FULL = request(
    [(CT, [EXPLICIT, IMPLICIT])],
    extra=[
        role(CT, scu=True, scp=True), extended(CT, b"\2\0"), identity(b"me", b"secret"),
        operations_window(3, 0), kin(PRIVATE, "1.2.840.10008.4.2", CT, FIND),
    ],
)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(st.integers(0, len(_FULL) - 7), st.integers(0, 255))
def test_a_request_with_one_wrong_byte_is_answered_or_refused(at: int, byte: int) -> None:
    raw = bytearray(_FULL)
    raw[6 + at] = byte
    try:
        _, answer = associate.negotiate(
            _read(bytes(raw)), Policy(16384, private_transfer_syntaxes=True), confirmed=True
        )
    except (Breach, Rejection):
        return
    assert items.read(answer[6:]).answers
