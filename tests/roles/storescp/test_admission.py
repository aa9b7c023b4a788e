from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from dicomnode.config import PeerTable, StoreScpTable, UserTable
from dicomnode.dimse import command
from dicomnode.dimse.associate import Asking
from dicomnode.dimse.items import Identity, Proposal, Role
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.responder import Operations, Replies, Reply, Request
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.service import VERIFICATION
from dicomnode.errors import PeerError
from dicomnode.roles.storescp.admission import read_tenant
from dicomnode.roles.storescp.identity import Identities
from dicomnode.roles.storescp.passcode import hashed
from dicomnode.roles.storescp.role import StoreScp
from tests.corpus import data_set_of, make, part10
from tests.roles.test_storescp import Kept, door, program

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT = str(ImplicitVRLittleEndian)
ASKED = proposals([(VERIFICATION, (IMPLICIT,)), (str(CTImageStorage), (IMPLICIT,))])
DATA = data_set_of(part10(make(), ImplicitVRLittleEndian))


async def _store(role: StoreScp, calling: str = "ME", called: str = "DICOMNODE", asking: Asking | None = None) -> int:
    peer = PeerTable(called, *role.endpoint)
    async with Association.request(peer, calling, ASKED, asking=asking or Asking()) as association:
        return await association.store(CTImageStorage, "1.2.3", IMPLICIT, DATA)


def _peers(**settings: Any) -> Mapping[str, PeerTable]:
    return {"ct": PeerTable("CT1", "localhost", 104, **settings)}


async def test_a_peer_is_served_what_it_may_ask_for() -> None:
    async with door(peers=_peers(services=("echo",))) as role:
        peer = PeerTable("DICOMNODE", *role.endpoint)
        async with Association.request(peer, "CT1", ASKED) as association:
            assert list(association.settled.contexts) == [1]
            assert await association.echo() == 0
        async with Association.request(peer, "CT2", ASKED) as association:
            assert list(association.settled.contexts) == [1, 3]


async def test_a_context_of_a_service_that_is_not_allowed_is_refused_by_the_user(tmp_path: Path) -> None:
    def results(port: int) -> list[int | None]:
        ae = AE("CT1")
        ae.add_requested_context(VERIFICATION)
        ae.add_requested_context(CTImageStorage)
        association = ae.associate("127.0.0.1", port)
        found = [context.result for context in (*association.accepted_contexts, *association.rejected_contexts)]
        association.release()
        return found

    async with door(peers=_peers(services=("store",))) as role:
        assert await asyncio.to_thread(results, role.endpoint[1]) == [0, 1]


async def test_a_command_of_a_service_that_is_not_allowed_is_answered_so() -> None:
    kept = Kept()
    async with door(kept, peers=_peers(services=("get", "store"))) as role:
        peer = PeerTable("DICOMNODE", *role.endpoint)
        async with Association.request(peer, "CT1", ASKED) as association:
            echo = command.Command(command.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION)
            assert (await association.requester.ask(3, echo)).status == 0x0124
    async with door(kept, peers=_peers(services=("get",))) as role:
        peer = PeerTable("DICOMNODE", *role.endpoint)
        asked = [Proposal(1, CTImageStorage, (IMPLICIT,), Role(scu=True, scp=True))]
        async with Association.request(peer, "CT1", asked) as association:
            # What is sent to it for C-GET is not what it may store here.
            context = association.settled.contexts[1]
            assert (context.as_scu, context.as_scp) == (False, True)
            store = command.Command(command.C_STORE_RQ, affected_sop_class_uid=CTImageStorage)
            assert (await association.requester.ask(1, store, DATA)).status == 0x0124
    assert kept.data == []


@pytest.mark.parametrize(
    ("calling", "called", "tenant"),
    [
        ("ME", "DICOMNODE", "hospital"),
        ("CT1", "DICOMNODE", "radiology"),
        ("ME", "RESEARCH", "studies"),
        ("CT1", "RESEARCH", "studies"),
    ],
)
async def test_the_tenant_is_that_of_the_title_called_or_of_the_peer_or_of_the_node(
    calling: str, called: str, tenant: str
) -> None:
    kept = Kept()
    titles = {"RESEARCH": "studies"}
    async with door(kept, peers=_peers(tenant="radiology"), ae_titles=titles, any_called_ae_title=False) as role:
        assert await _store(role, calling, called) == 0
        with pytest.raises(PeerError, match="called AE title not recognised"):
            await _store(role, calling, "OTHER")
    assert [arrival.tenant for arrival in kept.arrivals] == [tenant]


@pytest.mark.parametrize(
    ("element", "tenant"),
    [
        ("radiology", "radiology"),
        ("104\\111\\115\\112\\46\\49", "hosp.1"),
        ("1234567890", "1234567890"),
        ("../../etc", None),
        ("46\\46\\47\\97", None),
        ("999\\1", None),
        ("a\\b", None),
        ("²\\²", None),
        ("x" * 65, None),
        ("", None),
    ],
)
def test_the_tenant_element_is_a_name_or_the_codes_of_its_characters(element: str, tenant: str | None) -> None:
    assert read_tenant(element) == tenant


@pytest.mark.parametrize(("enabled", "found"), [(True, ["radiology"]), (False, ["hospital", "hospital"])])
async def test_the_tenant_element_of_a_command_counts_where_it_is_enabled(enabled: bool, found: list[str]) -> None:
    kept = Kept()
    async with door(kept, tenant_element=enabled) as role:
        peer = PeerTable("DICOMNODE", *role.endpoint)
        async with Association.request(peer, "ME", ASKED) as association:
            statuses = [await _store_with_element(association, text) for text in (b"radiology ", b"../../etc ")]
    assert statuses == [0, 0xC000 if enabled else 0]
    assert [arrival.tenant for arrival in kept.arrivals] == found


async def _store_with_element(association: Association, text: bytes) -> int:
    requester = association.requester
    requester._message_id = 1
    plain = command.encode_store_rq(1, CTImageStorage, "1.2.3")
    command_set = plain + b"\x11\x12\x17\x12" + len(text).to_bytes(4, "little") + text
    response = requester._expect(1)
    from dicomnode.dimse import send

    association.layer.send(*send.command_parts(3, command_set, 16384), *send.data_set_parts(3, DATA, 16384, last=True))
    return (await response).status


class Relational:
    """A subject that agrees to relational queries."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def operations(self) -> Operations:
        return {(command.C_FIND_RQ, FIND): self.find}

    def agree(self, sop_class_uid: str, asked: bytes) -> bytes | None:
        return asked[:1] if sop_class_uid == FIND else None

    async def find(self, request: Request) -> Replies:
        self.seen.append(request.extended)
        yield Reply(0)


async def test_a_subject_learns_what_it_agreed_to() -> None:
    subject = Relational()
    async with StoreScp(StoreScpTable(port=0), {}, "hospital", Kept(), [subject]) as role:
        peer = PeerTable("DICOMNODE", *role.endpoint)
        asked = [Proposal(1, FIND, (IMPLICIT,))]
        for asking in (Asking(extended={FIND: b"\1\1\1"}), Asking()):
            async with Association.request(peer, "ME", asked, asking=asking) as association:
                assert association.settled.extended == ({FIND: b"\1"} if asking.extended else {})
                find = command.Command(command.C_FIND_RQ, affected_sop_class_uid=FIND)
                assert (await association.requester.ask(1, find, b"\0\0")).status == 0
    assert subject.seen == [b"\1", b""]


USERS = {
    "anna": UserTable(passcode="plain words", tenant="readers"),
    "boris": UserTable(passcode=hashed(b"hashed words")),
    "nobody": UserTable(),
    "gateway": UserTable(tokens=("secret-token",), tenant="gate"),
}
ACCEPTED = [
    (Identity(1, True, b"nobody", b""), "hospital"),
    (Identity(2, True, b"anna", b"plain words"), "readers"),
    (Identity(2, True, b"boris", b"hashed words"), "hospital"),
    (Identity(5, True, b"secret-token", b""), "gate"),
    (Identity(5, True, b"of-the-web-door", b""), "hospital"),
]
REFUSED = [
    Identity(1, True, b"anna", b""),
    Identity(1, True, b"gateway", b""),
    Identity(1, True, b"unknown", b""),
    Identity(2, True, b"anna", b"other words"),
    Identity(2, True, b"boris", b"other words"),
    Identity(2, True, b"nobody", b"x"),
    Identity(2, True, b"unknown", b"x"),
    Identity(2, True, b"boris", USERS["boris"].passcode.encode()),
    Identity(3, True, b"ticket", b""),
    Identity(4, True, b"<saml/>", b""),
    Identity(5, True, b"secret-toke", b""),
]


def _identities() -> Identities:
    return Identities(USERS, ("of-the-web-door",))


@pytest.mark.parametrize(("identity", "tenant"), ACCEPTED)
@pytest.mark.parametrize("mode", ["checked", "required"])
async def test_a_user_who_proves_to_be_one_comes_in(identity: Identity, tenant: str, mode: str) -> None:
    kept = Kept()
    async with door(kept, identities=_identities(), user_identity=mode) as role:
        peer = PeerTable("DICOMNODE", *role.endpoint)
        async with Association.request(peer, "ME", ASKED, asking=Asking(identity=identity)) as association:
            assert association.settled.confirmed
            assert await association.store(CTImageStorage, "1.2.3", IMPLICIT, DATA) == 0
    assert [arrival.tenant for arrival in kept.arrivals] == [tenant]


@pytest.mark.parametrize("identity", REFUSED)
async def test_who_does_not_is_refused_and_not_named(identity: Identity, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept()
    async with door(kept, identities=_identities(), user_identity="checked") as role:
        with pytest.raises(PeerError, match="permanently: no reason given"):
            await _store(role, asking=Asking(identity=identity))
    told = capsys.readouterr().out
    assert "association.rejected" in told
    if len(identity.primary) > 3:
        assert identity.primary.decode() not in told
    assert kept.data == []


async def test_an_empty_passcode_is_none() -> None:
    with pytest.raises(Rejection):
        await _identities().find(Identity(2, True, b"nobody", b""))


@pytest.mark.parametrize(("mode", "comes_in"), [("ignored", True), ("checked", True), ("required", False)])
async def test_who_says_nothing_comes_in_unless_it_is_required(mode: str, comes_in: bool) -> None:
    async with door(identities=_identities(), user_identity=mode) as role:
        if comes_in:
            assert await _store(role) == 0
        else:
            with pytest.raises(PeerError, match="permanently"):
                await _store(role)


async def test_identities_that_are_ignored_are_not_confirmed() -> None:
    async with door(identities=_identities()) as role:
        asking = Asking(identity=Identity(2, True, b"anna", b"plain words"))
        peer = PeerTable("DICOMNODE", *role.endpoint)
        async with Association.request(peer, "ME", ASKED, asking=asking) as association:
            assert not association.settled.confirmed


async def test_pynetdicom_is_confirmed_when_it_asks_for_it() -> None:
    def talk(port: int, kind: int, primary: bytes, secondary: bytes = b"") -> tuple[bool, bool]:
        item = UserIdentityNegotiation()
        item.user_identity_type, item.primary_field, item.secondary_field = kind, primary, secondary
        item.positive_response_requested = True
        ae = AE("ME")
        ae.add_requested_context(VERIFICATION)
        association = ae.associate("127.0.0.1", port, ext_neg=[item])
        established = bool(association.is_established)
        confirmed = any(isinstance(one, UserIdentityNegotiation) for one in association.acceptor.user_information)
        if established:
            association.release()
        return established, confirmed

    async with door(identities=_identities(), user_identity="required") as role:
        port = role.endpoint[1]
        assert await asyncio.to_thread(talk, port, 2, b"boris", b"hashed words") == (True, True)
        assert await asyncio.to_thread(talk, port, 1, b"nobody") == (True, True)
        assert (await asyncio.to_thread(talk, port, 2, b"boris", b"other"))[0] is False


@pytest.mark.external("storescu")
async def test_storescu_sends_its_user(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(make()))
    kept = Kept()
    async with door(kept, identities=_identities(), user_identity="required") as role:
        code, said = await program("storescu", "-usr", "boris", "-pwd", "hashed words", "-rsp", *role.endpoint, path)
        assert code == 0, said
        assert (await program("storescu", "-usr", "boris", "-pwd", "wrong", "-rsp", *role.endpoint, path))[0] != 0
        assert (await program("storescu", *role.endpoint, path))[0] != 0
    assert len(kept.data) == 1


async def test_roles_of_pynetdicom_are_bounded() -> None:
    def talk(port: int) -> list[tuple[str, Any, Any]]:
        ae = AE("ME")
        ae.add_requested_context(VERIFICATION)
        ae.add_requested_context(CTImageStorage)
        roles: list[Any] = [build_role(uid, scu_role=True, scp_role=True) for uid in (VERIFICATION, CTImageStorage)]
        association = ae.associate("127.0.0.1", port, ext_neg=roles)
        found = [(str(c.abstract_syntax), c.as_scu, c.as_scp) for c in association.accepted_contexts]
        association.release()
        return found

    async with door() as role:
        found = await asyncio.to_thread(talk, role.endpoint[1])
    assert found == [(VERIFICATION, True, False), (str(CTImageStorage), True, True)]
