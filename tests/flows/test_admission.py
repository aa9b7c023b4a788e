"""Who may come in and what for, from the configuration file to the wire."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.roles.storescp.passcode import hashed
from tests.corpus import make, part10
from tests.flows.running import Running
from tests.roles.test_storescp import program


@pytest.mark.external("storescu")
async def test_a_user_stores_for_its_tenant(start: Callable[..., Running], tmp_path: Path) -> None:
    ds = make()
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(ds))
    node = start(
        "storescp.user_identity=required",
        f"users.anna={{passcode='{hashed(b'open sesame')}', tenant='readers'}}",
        "storescp.ae_titles.RESEARCH=studies",
        "node.tenant=hospital",
    )
    user = ["-usr", "anna", "-pwd", "open sesame", "-rsp"]
    assert (await program("storescu", "-aec", "RESEARCH", *node.scp, path))[0] != 0
    code, said = await program("storescu", "-aec", "RESEARCH", *user, *node.scp, path)
    assert code == 0, said
    stored = [found.relative_to(node.data_dir / "storage") for found in node.data_dir.glob("storage/**/*.dcm")]
    assert [found.parts[0] for found in stored] == ["readers"]
    assert "open sesame" not in node.told()
    assert "anna" not in node.told()


@pytest.mark.external("storescu")
async def test_a_peer_of_the_configuration_is_held_to_its_services(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(make()))
    peer = "peers.ws7={ae_title='WS7', host='localhost', port=104, services=['echo', 'find'], tenant='readers'}"
    node = start(peer, "storescp.accept_unknown_peers=false")
    assert (await program("echoscu", "-aet", "WS7", *node.scp))[0] == 0
    assert (await program("storescu", "-aet", "WS7", *node.scp, path))[0] != 0
    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID"]
    assert (await program("findscu", "-aet", "WS7", *keys, *node.scp))[0] == 0
    code, said = await program("echoscu", "-aet", "WS8", *node.scp)
    assert code != 0
    assert "Calling AE Title Not Recognized" in said
    assert not list(node.data_dir.glob("storage/**/*.dcm"))


@pytest.mark.external("storescu")
async def test_a_node_without_room_takes_no_senders_and_says_so_once(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(make()))
    node = start(f"storescp.limits.storage_free={2**60}")
    for _ in range(3):
        code, said = await program("storescu", *node.scp, path)
        assert code != 0
        assert "Local Limit Exceeded" in said
    assert (await program("echoscu", *node.scp))[0] == 0
    assert node.told().count("storage.low") == 1
    _, told = node.get("/metrics", "text/plain")
    assert "dicomnode_storage_low 1.0" in told.decode()
