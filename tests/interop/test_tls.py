"""DICOM over TLS with programs of other people, both ends showing certificates (PS3.15 B.9), and who is turned away."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from tests.certificates import authority_file, certified
from tests.flows.running import Running, dicomnode, sets, start_node
from tests.flows.send import stow
from tests.interop.keepers import KEEPERS, storescp
from tests.interop.objects import Sample, sample, syntaxes
from tests.interop.orthanc import orthanc
from tests.interop.places import HOST, Certificate, Place, free_port
from tests.interop.queriers import QUERIERS, UNIQUE, files_in
from tests.interop.reading import kept_by
from tests.interop.senders import SENDERS, Told, dcmjs, needs_dcmjs

_EXPLICIT = str(ExplicitVRLittleEndian)
_VERIFICATION = "1.2.840.10008.1.1"


class Trust(msgspec.Struct, frozen=True):
    """What the two ends show one another, and what a stranger would show."""

    node: Certificate
    peer: Certificate
    stranger: Certificate


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("certificates")
    ca = authority_file(folder)

    def shown(name: str, by: str = "ours") -> Certificate:
        cert, key = certified(folder, name, HOST, "localhost", by=by)
        return Certificate(key, cert, ca)

    return Trust(shown("node.example.org"), shown("peer.example.org"), shown("stranger.example.org", by="theirs"))


def _ours(trust: Trust) -> list[str]:
    """Return the settings with which we go to others."""
    node = trust.node
    return [f"node.tls.ca={node.ca}", f"node.tls.certificate={node.cert}", f"node.tls.key={node.key}"]


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, trust: Trust, tls_port: int, destinations: dict[str, Place]
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("node")
    table = {"port": tls_port, "certificate": trust.node.cert, "key": trust.node.key, "client_ca": trust.node.ca}
    third = destinations["STORESCP"]
    peer = f'{{ae_title = "STORESCP", host = "{HOST}", port = {third.port}, tls = true}}'
    more = [f"storescp.tls.{key}={value}" for key, value in table.items()] + [f"peers.storescp={peer}", *_ours(trust)]
    running = start_node(folder / "data", folder / "log", *sets(folder / "data", *more))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def place(node: Running, tls_port: int, trust: Trust) -> Place:
    return Place("DICOMNODE", tls_port, trust.peer)


_TLS = ("echoscu", "storescu", "dcmjs")  # the others know no TLS
programs = pytest.mark.parametrize("name", [pytest.param(name, marks=SENDERS[name].marks) for name in _TLS])


def _speak(name: str, place: Place, one: Sample) -> Told:
    """Have a program send an object, or ask whether we are there if it cannot send."""
    sender = SENDERS[name]
    if sender.store is not None:
        return sender.store(place, one)
    assert sender.echo is not None
    return sender.echo(place)


@programs
def test_a_program_comes_in(name: str, node: Running, place: Place, tmp_path: Path) -> None:
    one = sample(_EXPLICIT, tmp_path)
    told = _speak(name, place, one)
    assert told.well, told.words
    if SENDERS[name].store is not None:
        assert kept_by(node, one)[0] == _EXPLICIT


@programs
def test_a_stranger_does_not(name: str, node: Running, tls_port: int, trust: Trust, tmp_path: Path) -> None:
    one = sample(_EXPLICIT, tmp_path)
    assert not _speak(name, Place("DICOMNODE", tls_port, trust.stranger), one).well
    assert not node.json(f"/dicomweb/instances?SOPInstanceUID={one.sop}")


@programs
def test_nor_who_speaks_no_tls(name: str, node: Running, tls_port: int, tmp_path: Path) -> None:
    one = sample(_EXPLICIT, tmp_path)
    assert not _speak(name, Place("DICOMNODE", tls_port), one).well
    assert not node.json(f"/dicomweb/instances?SOPInstanceUID={one.sop}")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_pynetdicom_comes_in(version: ssl.TLSVersion, place: Place, trust: Trust) -> None:
    context = ssl.create_default_context(cafile=str(trust.peer.ca))
    context.load_cert_chain(trust.peer.cert, trust.peer.key)
    context.minimum_version = context.maximum_version = version
    entity: Any = AE(ae_title="PYNETDICOM")
    entity.add_requested_context(_VERIFICATION)
    association = entity.associate(HOST, place.port, ae_title=place.aet, tls_args=(context, "localhost"))
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()
    assert association.is_released


@pytest.fixture(scope="module")
def held(node: Running, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    one = sample(_EXPLICIT, tmp_path_factory.mktemp("held"))
    status, _ = stow(node, one.path.read_bytes())
    assert status == 200
    return one


def _keys(one: Sample) -> dict[str, str]:
    return {"StudyInstanceUID": one.study, "SeriesInstanceUID": one.series, "SOPInstanceUID": one.sop}


@pytest.mark.external("findscu")
def test_findscu_asks(held: Sample, place: Place, tmp_path: Path) -> None:
    find = QUERIERS["dcmtk"].find
    assert find is not None
    (found,) = find(place, "IMAGE", _keys(held), tmp_path)
    assert found[UNIQUE["IMAGE"]] == held.sop


@pytest.mark.external("node")
@needs_dcmjs
def test_dcmjs_gets(held: Sample, place: Place, tmp_path: Path) -> None:
    """dcmtk 3.6.7's getscu knows no TLS."""
    answers, words = dcmjs(place, {"kind": "get", "uids": list(_keys(held).values())}, folder=str(tmp_path))
    assert answers[-2]["status"] == 0, words
    assert list(files_in(tmp_path)) == [held.sop]


@pytest.mark.external("node", "storescp")
@needs_dcmjs
def test_dcmjs_has_it_sent_to_a_third(
    held: Sample, place: Place, destinations: dict[str, Place], trust: Trust, tmp_path: Path
) -> None:
    """The node goes to the third over TLS, as its peer's entry says. dcmtk 3.6.7's movescu knows no TLS."""
    move = QUERIERS["dcmjs"].move
    assert move is not None
    third = Place("STORESCP", destinations["STORESCP"].port, trust.peer)
    with storescp(tmp_path, place=third) as kept:
        told = move(place, "IMAGE", _keys(held), third)
        assert told.well, told.words
        assert kept.has(held) == (held.transfer_syntax, held.data_set)


@pytest.mark.parametrize("name", [pytest.param(name, marks=KEEPERS[name].marks) for name in ("storescp", "dcmjs")])
def test_we_send(name: str, trust: Trust, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    keeper = KEEPERS[name]
    samples = [sample(syntax, ours) for syntax in syntaxes() if keeper.takes is None or syntax in keeper.takes]
    words = [word for one in _ours(trust) for word in ("--set", one)]
    with keeper.keeping(tmp_path, trust.peer) as kept:
        assert dicomnode("echo", "--tls", kept.place.peer, *words).returncode == 0
        assert dicomnode("echo", kept.place.peer).returncode == 1
        told = dicomnode("store", "--tls", "--json", kept.place.peer, str(ours), *words)
        summary = json.loads(told.stdout)
        assert (summary["stored"], summary["failures"]) == (len(samples), [])
        for one in samples:
            assert kept.has(one) == (one.transfer_syntax, one.data_set), one


@pytest.mark.external("Orthanc")
def test_orthanc_both_ways(node: Running, place: Place, trust: Trust, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    sent, come = sample(_EXPLICIT, ours), sample(_EXPLICIT, tmp_path)
    table: dict[str, Any] = {
        "DicomTlsEnabled": True,
        "DicomTlsPrivateKey": str(trust.peer.key),
        "DicomTlsCertificate": str(trust.peer.cert),
        "DicomTlsTrustedCertificates": str(trust.peer.ca),
        "DicomTlsRemoteCertificateRequired": True,
    }
    with orthanc(tmp_path, **table) as running:
        running.knows("node", place)
        running.ask("/modalities/node/echo", {})
        added = running.ask("/instances", come.path.read_bytes())
        told = running.ask("/modalities/node/store", [added["ID"]])
        assert told["FailedInstancesCount"] == 0
        assert kept_by(node, come)[0] == _EXPLICIT
        words = [word for one in _ours(trust) for word in ("--set", one)]
        assert dicomnode("store", "--tls", running.place.peer, str(sent.path), *words).returncode == 0
        assert running.ask("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sent.sop}})
