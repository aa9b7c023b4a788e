from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dicomnode.config import ClientTlsTable, PeerTable
from dicomnode.dimse import pdu
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.service import VERIFICATION
from dicomnode.errors import PeerError
from tests.certificates import authority_file, certified
from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode
from tests.roles.test_storescp import program

ASKED = proposals([(VERIFICATION, ("1.2.840.10008.1.2",))])


def _on_tls(folder: Path, *more: str) -> list[str]:
    certificate, key = certified(folder, "localhost", "127.0.0.1")
    return ["storescp.tls.port=0", f"storescp.tls.certificate={certificate}", f"storescp.tls.key={key}", *more]


def _peer(node: Running, folder: Path, authority: str) -> PeerTable:
    host, _, port = node.addresses["storescp+tls"].partition("@")[2].rpartition(":")
    return PeerTable("DICOMNODE", host, int(port), tls=ClientTlsTable(str(authority_file(folder, authority))))


async def test_a_signal_has_certificates_read_again_while_an_association_stands(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    node = start(*_on_tls(tmp_path))
    old, new = _peer(node, tmp_path, "ours"), _peer(node, tmp_path, "newer")
    async with Association.request(old, "ME", ASKED) as standing:
        certificate, key = certified(tmp_path, "localhost", "127.0.0.1", by="newer")
        certificate.replace(tmp_path / "localhost-ours.pem")
        key.replace(tmp_path / "localhost-ours.key")
        node.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while "certificates.read" not in node.told() and time.monotonic() < deadline:
            time.sleep(0.05)
        async with Association.request(new, "ME", ASKED) as newer:
            assert await newer.echo() == 0
        assert await standing.echo() == 0
        with pytest.raises(PeerError, match="not trusted"):
            async with Association.request(old, "ME", ASKED):
                pass
    assert node.stop() == 0


@pytest.mark.external("storescu")
async def test_dcmtk_stores_on_tls_alone_and_the_object_is_found(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start(*_on_tls(tmp_path, f"storescp.tls.client_ca={authority_file(tmp_path)}"), "storescp.port=-1")
    assert node.addresses["storescp"] == node.addresses["storescp+tls"]
    ds = make()
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(ds))
    certificate, key = certified(tmp_path, "ct1.example.org")
    tls = ["-pw", "+tls", key, certificate, "+cf", authority_file(tmp_path)]
    code, said = await program("storescu", *tls, *node.scp, path, env={"TCP_NODELAY": "1"})
    assert code == 0, said
    [study] = node.json(f"/dicomweb/studies?StudyInstanceUID={ds.StudyInstanceUID}")
    assert study["0020000D"]["Value"] == [ds.StudyInstanceUID]


def test_strangers_on_the_tls_port_make_no_noise(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start(*_on_tls(tmp_path, f"storescp.tls.client_ca={authority_file(tmp_path)}"), "storescp.port=-1")
    anyone = ssl.create_default_context(cafile=str(authority_file(tmp_path)))
    said = (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        pdu.release_rq() * 10,
        b"\x16\x03\x01\xff\xff" + bytes(1000),
        b"SSH-2.0-x\r\n",
    )
    for raw in said:
        with socket.create_connection(node.scp, timeout=20) as stranger:
            stranger.sendall(raw)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1000):
                pass
    # Who speaks TLS and shows no certificate, as scanners do.
    with (
        suppress(OSError),
        socket.create_connection(node.scp, timeout=20) as stranger,
        anyone.wrap_socket(stranger, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"x")
        assert secured.recv(1) == b""
    deadline = time.monotonic() + 20
    wanted = f'dicomnode_associations_total{{outcome="refused_garbage"}} {len(said) + 1}.0'
    while wanted not in node.get("/metrics", "text/plain")[1].decode() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert wanted in node.get("/metrics", "text/plain")[1].decode()
    assert node.told() == ""


def test_our_own_commands_speak_tls(start: Callable[..., Running], tmp_path: Path) -> None:
    ca = authority_file(tmp_path)
    node = start(*_on_tls(tmp_path, f"storescp.tls.client_ca={ca}"), "storescp.port=-1")
    certificate, key = certified(tmp_path, "us.example.org")
    trust = ["--set", f"node.tls.ca={ca}"]
    shown = [*trust, "--set", f"node.tls.certificate={certificate}", "--set", f"node.tls.key={key}"]
    host, port = node.scp
    named = ["--set", f"peers.node={{ae_title='DICOMNODE', host='{host}', port={port}, tls=true}}"]
    assert dicomnode("echo", node.addresses["storescp"], "--tls", *shown).returncode == 0
    assert dicomnode("echo", "node", *named, *shown).returncode == 0
    assert dicomnode("echo", node.addresses["storescp"], *shown).returncode == 1
    assert dicomnode("echo", node.addresses["storescp"], "--tls", *trust).returncode == 1
    untrusting = dicomnode("echo", node.addresses["storescp"], "--tls", *shown[2:])
    assert untrusting.returncode == 1
    assert "not trusted" in untrusting.stderr


def test_check_tells_what_is_wrong_with_the_files(tmp_path: Path) -> None:
    good, good_key = certified(tmp_path, "a.example.org")
    old, old_key = certified(tmp_path, "b.example.org", expired=True)

    def told(certificate: Path, key: Path, *more: str) -> tuple[int, str]:
        sets = [
            f"node.data_dir={tmp_path / 'data'}",
            "storescp.tls.port=2762",
            f"storescp.tls.certificate={certificate}",
        ]
        words = [word for one in (*sets, f"storescp.tls.key={key}", *more) for word in ("--set", one)]
        checked = dicomnode("check", *words)
        return checked.returncode, checked.stderr

    assert told(good, good_key) == (0, "")
    for pair, problem in (
        ((old, old_key), "has expired"),
        ((good, old_key), "is not the key of the certificate"),
        ((tmp_path / "none.pem", good_key), "cannot be read"),
    ):
        code, said = told(*pair)
        assert code == 1
        assert problem in said
    code, said = told(good, good_key, "peers.x={ae_title='X', host='h', port=1, tls=true}", f"node.tls.ca={old_key}")
    assert code == 1
    assert "node.tls.ca" in said
