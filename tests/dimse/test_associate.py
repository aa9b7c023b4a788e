from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from dicomnode.dicom.transfer_syntax import STANDARD
from dicomnode.dimse import associate, items, pdu
from dicomnode.dimse.associate import Policy
from dicomnode.dimse.items import Associate, Proposal, Role
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
    raw_request,
    request,
    role,
)

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
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
    extra = [role(CT, scu=True, scp=True), extended(FIND, b"\1\1"), identity(b"me", b"secret")]
    found = _read(request([(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT, IMPLICIT])], max_pdu=5000, extra=extra))
    assert (found.calling_aet, found.called_aet) == ("TESTER", "DICOMNODE")
    assert found.proposals == (Proposal(1, VERIFICATION, (IMPLICIT,)), Proposal(3, CT, (EXPLICIT, IMPLICIT)))
    assert found.user.max_pdu == 5000
    assert found.user.implementation_class_uid == "1.2.3.4"
    assert found.user.roles == {CT: Role(scu=True, scp=True)}
    assert found.user.extended == {FIND: b"\1\1"}
    assert found.user.identity == items.Identity(2, True, b"me", b"secret")


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


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_items_are_read_or_refused(tail: bytes) -> None:
    try:
        found = _read(raw_request(APPLICATION, context(1), tail))
    except (Breach, Rejection):
        return
    assert found.proposals


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 255))
def test_a_request_with_one_wrong_byte_is_answered_or_refused(at: int, byte: int) -> None:
    raw = bytearray(request([(CT, [EXPLICIT, IMPLICIT])], extra=[role(CT, scu=True, scp=True)]))
    raw[6 + at % (len(raw) - 6)] = byte
    try:
        _, answer = associate.negotiate(_read(bytes(raw)), Policy(16384, private_transfer_syntaxes=True))
    except (Breach, Rejection):
        return
    assert items.read(answer[6:]).answers
