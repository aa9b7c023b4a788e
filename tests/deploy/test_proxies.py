"""nginx and HAProxy with the configuration of deploy/, before real nodes: DICOM, TLS that goes through, DICOMweb."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from tests.certificates import authority_file, certified
from tests.corpus import data_set_of, make, part10
from tests.deploy.proxies import Proxy, port_of, running
from tests.flows.running import Running, dicomnode, sets, start_node

pytestmark = pytest.mark.external("nginx", "haproxy")

TOKEN = "proxied"
_LARGE = 20 * 1024 * 1024


def started(folder: Path, name: str) -> Running:
    """Return a node whose certificate is another than the proxies'."""
    certificate, key = folder / "localhost-ours.pem", folder / "localhost-ours.key"
    doors = ["health.port=0", "storescp.tls.port=0", f"storescp.tls.certificate={certificate}", "recorder.linger_s=0.1"]
    doors += [f"storescp.tls.key={key}", 'server.trusted_proxies=["127.0.0.1"]', f'server.auth.tokens=["{TOKEN}"]']
    return start_node(folder / name, folder / f"log-{name}", *sets(folder / name, *doors))


def both(folder: Path) -> list[Running]:
    certified(folder, "localhost", "127.0.0.1")
    with ThreadPoolExecutor(2) as starting:
        return list(starting.map(lambda name: started(folder, name), ("one", "two")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("proxies")
    made.chmod(0o755)
    return made


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[list[Running]]:
    found = both(folder)
    yield found
    for node in found:
        node.kill()


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, folder: Path, nodes: list[Running]) -> Iterator[Proxy]:
    with running(request.param, folder / request.param, nodes) as found:
        yield found


def asked(
    proxy: Proxy, folder: Path, method: str, path: str, body: bytes | None = None, *, source: str = "", **headers: str
) -> tuple[int, bytes]:
    """Return what the web door answers through the proxy, on TLS that is verified."""
    trust = ssl.create_default_context(cafile=str(authority_file(folder)))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", proxy.https, timeout=60, context=trust, source_address=(source, 0) if source else None
    )
    told = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, told)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def found_in(node: Running) -> set[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(node, "server"), timeout=30)
    try:
        connection.request("GET", "/dicomweb/instances?limit=500", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        body = answer.read()
        return {row["00080018"]["Value"][0] for row in json.loads(body)} if answer.status == 200 else set()
    finally:
        connection.close()


def test_associations_are_spread_and_nothing_is_lost(proxy: Proxy, nodes: list[Running], tmp_path: Path) -> None:
    sent = set()
    for number in range(6):
        instance = make()
        sent.add(str(instance.SOPInstanceUID))
        (tmp_path / f"{number}.dcm").write_bytes(part10(instance))
        told = subprocess.run(
            ["storescu", "-aec", "DICOMNODE", "127.0.0.1", str(proxy.dicom), str(tmp_path / f"{number}.dcm")],
            env=os.environ | {"TCP_NODELAY": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert told.returncode == 0, told.stdout + told.stderr
    each = [found_in(node) & sent for node in nodes]
    assert set.union(*each) == sent
    assert all(each), "each node has some"


def test_tls_of_dicom_ends_in_the_node(proxy: Proxy, folder: Path) -> None:
    theirs = ssl.get_server_certificate(("127.0.0.1", proxy.dicom_tls))
    assert theirs.strip() in (folder / "localhost-ours.pem").read_text()
    peer = f"DICOMNODE@127.0.0.1:{proxy.dicom_tls}"
    told = dicomnode("echo", peer, "--tls", "--set", f"node.tls.ca={authority_file(folder)}")
    assert told.returncode == 0, told.stderr


def test_a_large_object_goes_through_both_ways(proxy: Proxy, folder: Path, nodes: list[Running]) -> None:
    instance = make(Rows=2048, Columns=5120, BitsAllocated=16, PixelData=os.urandom(_LARGE))
    file = part10(instance)
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--x--\r\n"
    of_dicom = 'multipart/related; type="application/dicom"; boundary=x'
    status, told = asked(
        proxy, folder, "POST", "/dicomweb/studies", body, Content_Type=of_dicom, Accept="application/dicom+json"
    )
    assert status == 200, told[:500]
    instances = f"/dicomweb/studies/{instance.StudyInstanceUID}/series/{instance.SeriesInstanceUID}/instances"
    for _ in range(20):  # the nodes of the tests are two archives: one of them has it
        status, row = asked(proxy, folder, "GET", instances, Accept="application/dicom+json")
        if status == 200:
            assert json.loads(row)[0]["00080018"]["Value"] == [str(instance.SOPInstanceUID)]
            break
    else:
        pytest.fail("no node tells of it")
    for _ in range(20):
        status, back = asked(proxy, folder, "GET", f"{instances}/{instance.SOPInstanceUID}", Accept="application/dicom")
        if status == 200:
            assert data_set_of(back) == data_set_of(file)
            return
    pytest.fail("no node has it")


def test_what_is_for_operators_is_not_for_everybody(proxy: Proxy, folder: Path) -> None:
    for path in ("/metrics", "/livez", "/readyz"):
        assert asked(proxy, folder, "GET", path)[0] == 404
    assert asked(proxy, folder, "GET", "/")[0] == 200
    assert asked(proxy, folder, "GET", "/dicomweb/studies", Authorization="none")[0] == 401


def test_nothing_of_a_patient_is_in_the_log(proxy: Proxy, folder: Path) -> None:
    asked(proxy, folder, "GET", "/dicomweb/studies?PatientName=CANARY", User_Agent="CANARY", Referer="CANARY")
    asked(proxy, folder, "GET", "/dicomweb/studies/1.2.840.777777")
    told = proxy.log.read_text()
    assert "GET" in told
    assert "CANARY" not in told
    assert "777777" not in told


def test_the_client_s_address_is_recorded_and_a_node_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    """The proxies call from 127.0.0.1, which is trusted; the client is 127.0.0.2, and says that it is another."""
    tmp_path.chmod(0o755)
    one, two = both(tmp_path)
    try:
        two.kill()
        for name in ("nginx", "haproxy"):
            with running(name, tmp_path / name, [one, two]) as proxy:
                for _ in range(4):
                    status, _ = asked(
                        proxy, tmp_path, "GET", "/dicomweb/studies", source="127.0.0.2", X_Forwarded_For="203.0.113.9"
                    )
                    assert status == 204, proxy.log.read_text()
                    echo = ["echoscu", "-aec", "DICOMNODE", "127.0.0.1", str(proxy.dicom)]
                    assert subprocess.run(echo, timeout=30, check=False).returncode == 0, proxy.log.read_text()
        assert one.stop() == 0
    finally:
        one.kill()
        two.kill()
    with duckdb.connect(str(tmp_path / "one" / "warehouse.duckdb"), read_only=True) as warehouse:
        rows = warehouse.execute("SELECT DISTINCT peer_addr FROM wado_access_log").fetchall()
    assert rows == [("127.0.0.2",)]
