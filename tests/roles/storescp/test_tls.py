from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dicomnode.config import ClientTlsTable, LimitsTable, PeerTable, ServerTlsTable, StoreScpTable
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.service import VERIFICATION
from dicomnode.errors import ConfigError, PeerError
from dicomnode.roles.storescp.role import StoreScp
from tests.certificates import authority_file, certified
from tests.corpus import make, part10
from tests.interop.places import free_port, serving
from tests.roles.test_storescp import Kept, door, program

ASKED = proposals([(VERIFICATION, ("1.2.840.10008.1.2",))])


def _tls(folder: Path, *, mutual: bool = False) -> ServerTlsTable:
    certificate, key = certified(folder, "localhost", "127.0.0.1")
    return ServerTlsTable(0, str(certificate), str(key), str(authority_file(folder)) if mutual else "")


def _where(role: StoreScp) -> tuple[str, int]:
    endpoint = role._listener.tls_address
    assert endpoint is not None
    return endpoint


def _shown(folder: Path, name: str, by: str = "ours") -> list[Any]:
    certificate, key = certified(folder, name, by=by)
    return ["-pw", "+tls", key, certificate, "+cf", authority_file(folder)]


@pytest.mark.external("echoscu")
async def test_echoscu_speaks_tls_without_a_certificate(tmp_path: Path) -> None:
    async with door(tls=_tls(tmp_path)) as role:
        code, said = await program("echoscu", "+tla", "+cf", authority_file(tmp_path), *_where(role))
        assert code == 0, said
        assert (await program("echoscu", "+tla", "+cf", authority_file(tmp_path, "theirs"), *_where(role)))[0] != 0
        assert (await program("echoscu", *_where(role)))[0] != 0  # without TLS
        assert (await program("echoscu", *role.endpoint))[0] == 0  # the other port, without TLS
        assert (await program("echoscu", "+tla", "+cf", authority_file(tmp_path), *role.endpoint))[0] != 0


@pytest.mark.external("echoscu")
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
async def test_echoscu_speaks_the_profiles_of_the_standard(tmp_path: Path, profile: str) -> None:
    async with door(tls=_tls(tmp_path)) as role:
        code, said = await program("echoscu", "+tla", profile, "+cf", authority_file(tmp_path), *_where(role))
        assert code == 0, said


@pytest.mark.external("storescu")
async def test_storescu_sends_a_folder_on_mutual_tls(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    for number in range(20):
        (objects / f"{number}.dcm").write_bytes(part10(make(PixelData=bytes(200_000))))
    kept = Kept()
    async with door(kept, tls=_tls(tmp_path, mutual=True)) as role:
        shown = _shown(tmp_path, "ct1.example.org")
        code, said = await program("storescu", *shown, *_where(role), "+sd", objects, env={"TCP_NODELAY": "1"})
    assert code == 0, said
    assert len(kept.data) == 20


@pytest.mark.external("echoscu")
async def test_mutual_tls_asks_for_a_certificate_of_its_own_authority(tmp_path: Path) -> None:
    async with door(tls=_tls(tmp_path, mutual=True)) as role:
        assert (await program("echoscu", *_shown(tmp_path, "ct1.example.org"), *_where(role)))[0] == 0
        assert (await program("echoscu", "+tla", "+cf", authority_file(tmp_path), *_where(role)))[0] != 0
        assert (await program("echoscu", *_shown(tmp_path, "ct1.example.org", "theirs"), *_where(role)))[0] != 0


@pytest.mark.external("echoscu")
async def test_an_ae_title_belongs_to_a_certificate(tmp_path: Path) -> None:
    peers = {"ct": PeerTable("CT1", "localhost", 104, certificate="ct1.example.org")}
    # Also where anybody may come in, nobody may come in as CT1 but CT1.
    async with door(peers=peers, tls=_tls(tmp_path, mutual=True), accept_unknown_peers=True) as role:
        right, wrong = _shown(tmp_path, "ct1.example.org"), _shown(tmp_path, "ct2.example.org")
        assert (await program("echoscu", "-aet", "CT1", *right, *_where(role)))[0] == 0
        code, said = await program("echoscu", "-aet", "CT1", *wrong, *_where(role))
        assert code != 0
        assert "Calling AE Title Not Recognized" in said
        assert (await program("echoscu", "-aet", "CT1", *role.endpoint))[0] != 0  # without TLS it shows none
        assert (await program("echoscu", "-aet", "CT2", *wrong, *_where(role)))[0] == 0


async def test_certificates_are_read_again_and_a_fault_in_them_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _tls(tmp_path)
    async with door(tls=table) as role:
        peer = PeerTable("X", *_where(role), tls=ClientTlsTable(str(authority_file(tmp_path, "newer"))))
        with pytest.raises(PeerError, match="not trusted"):
            async with Association.request(peer, "ME", ASKED):
                pass
        certificate, key = certified(tmp_path, "localhost", "127.0.0.1", by="newer")
        certificate.replace(table.certificate)
        key.replace(table.key)
        await role.reload()
        async with Association.request(peer, "ME", ASKED) as association:
            assert await association.echo() == 0
        Path(table.certificate).unlink()
        await role.reload()
        async with Association.request(peer, "ME", ASKED) as association:
            assert await association.echo() == 0
    told = capsys.readouterr().out
    assert "certificates.read" in told
    assert "certificates.refused" in told


@pytest.mark.external("storescp")
@pytest.mark.parametrize("mutual", [True, False])
async def test_a_peer_is_called_on_tls(tmp_path: Path, mutual: bool) -> None:
    certificate, key = certified(tmp_path, "localhost", "127.0.0.1")
    own, own_key = certified(tmp_path, "us.example.org")
    ca = authority_file(tmp_path)
    port = free_port()
    wants = "-rc" if mutual else "-ic"
    command = ["storescp", "-pw", "+tls", key, certificate, "+cf", ca, wants, "-od", tmp_path, port]
    with serving([str(word) for word in command], port, tmp_path / "log"):
        bare = ClientTlsTable(str(ca))
        tls = ClientTlsTable(str(ca), str(own), str(own_key)) if mutual else bare
        async with Association.request(PeerTable("SCP", "localhost", port, tls=tls), "ME", ASKED) as association:
            assert await association.echo() == 0
        if mutual:
            with pytest.raises(PeerError):
                async with Association.request(PeerTable("SCP", "localhost", port, tls=bare), "ME", ASKED):
                    pass


async def test_two_doors_share_their_ports_where_both_say_so(tmp_path: Path) -> None:
    tls = _tls(tmp_path)
    async with door(tls=tls, reuse_port=True) as first:
        plain, secure = first.endpoint[1], _where(first)[1]
        for shared in (True, False):
            table = StoreScpTable(
                port=plain,
                tls=msgspec.structs.replace(tls, port=secure),
                limits=LimitsTable(drain_s=1),
                reuse_port=shared,
            )
            second = StoreScp(table, {}, "hospital", Kept())
            if not shared:
                with pytest.raises(ConfigError, match=r"in use .*storescp\.reuse_port = true"):
                    await second.__aenter__()
                continue
            async with second:
                assert (second.endpoint, _where(second)) == (first.endpoint, _where(first))
                trust = ClientTlsTable(str(authority_file(tmp_path)))
                for peer in (
                    PeerTable("X", "127.0.0.1", plain),
                    PeerTable("X", "127.0.0.1", secure, tls=trust),
                ):
                    for _ in range(8):
                        async with Association.request(peer, "ME", ASKED) as association:
                            assert await association.echo() == 0
