"""nginx and HAProxy as deploy/ has them, before nodes of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.backends.postgres import free_port
from tests.certificates import certified
from tests.deploy.placed import placed
from tests.flows.running import Running

_PATIENCE_S = 20.0


class Proxy(msgspec.Struct):
    """Where it listens on loopback, and what it says."""

    https: int
    dicom: int
    dicom_tls: int
    log: Path


def port_of(node: Running, door: str) -> int:
    """Return the port of a door, as the node told it."""
    return int(node.addresses[door].rpartition(":")[2])


def _nginx(folder: Path, proxy: Proxy, nodes: Sequence[Running]) -> tuple[Path, list[str], list[str]]:
    certificate, key = certified(folder, "127.0.0.1", "localhost")
    temporary = "".join(
        f"    {kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    places: dict[str, object] = {
        "/tmp/nginx.pid": folder / "nginx.pid",
        "http {\n": f"http {{\n{temporary}",
        "listen 443 ssl": f"listen 127.0.0.1:{proxy.https} ssl",
        "listen 11112 ": f"listen 127.0.0.1:{proxy.dicom} ",
        "listen 2762 ": f"listen 127.0.0.1:{proxy.dicom_tls} ",
        "/tls/node.pem": certificate,
        "/tls/node.key": key,
        "worker_processes auto": "worker_processes 1",
    }
    for number, node in enumerate(nodes, 1):
        places[f"server-{number}:8080"] = f"127.0.0.1:{port_of(node, 'server')}"
        places[f"storescp-{number}:11112"] = f"127.0.0.1:{port_of(node, 'storescp')}"
        places[f"storescp-{number}:2762"] = f"127.0.0.1:{port_of(node, 'storescp+tls')}"
    file = folder / "nginx.conf"
    file.write_text(placed("nginx/nginx.conf", places))
    return file, ["nginx", "-t", "-c", str(file)], ["nginx", "-c", str(file), "-g", "daemon off;"]


def _haproxy(folder: Path, proxy: Proxy, nodes: Sequence[Running]) -> tuple[Path, list[str], list[str]]:
    certificate, key = certified(folder, "127.0.0.1", "localhost")
    both = folder / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    places: dict[str, object] = {
        "bind :443 ": f"bind 127.0.0.1:{proxy.https} ",
        "bind :11112": f"bind 127.0.0.1:{proxy.dicom}",
        "bind :2762": f"bind 127.0.0.1:{proxy.dicom_tls}",
        "bind 127.0.0.1:8405": f"bind 127.0.0.1:{free_port()}",
        "/etc/haproxy/node.pem": both,
    }
    for number, node in enumerate(nodes, 1):
        check = f" check port {port_of(node, 'health')}"
        places[f" server-{number}:8080"] = f" 127.0.0.1:{port_of(node, 'server')}{check}"
        places[f" storescp-{number}:11112"] = f" 127.0.0.1:{port_of(node, 'storescp')}{check}"
        places[f" storescp-{number}:2762"] = f" 127.0.0.1:{port_of(node, 'storescp+tls')}{check}"
    file = folder / "haproxy.cfg"
    file.write_text(placed("haproxy/haproxy.cfg", places))
    return file, ["haproxy", "-c", "-f", str(file)], ["haproxy", "-db", "-f", str(file)]


@contextmanager
def running(name: str, folder: Path, nodes: Sequence[Running]) -> Iterator[Proxy]:
    """Have the proxy `name` before `nodes`, after it has judged its own configuration; skip where it is not."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"the configuration of {name} was not tested: it is not here (scripts/peers installs it)")
    folder.mkdir(mode=0o755, exist_ok=True)
    proxy = Proxy(free_port(), free_port(), free_port(), folder / "log")
    _, check, run = (_nginx if name == "nginx" else _haproxy)(folder, proxy, nodes)
    judged = subprocess.run([program, *check[1:]], capture_output=True, text=True, check=False, timeout=30)
    assert judged.returncode == 0, judged.stderr
    assert "[warn" not in judged.stderr.lower(), judged.stderr
    with proxy.log.open("wb") as log:
        process = subprocess.Popen([program, *run[1:]], stdout=log, stderr=log)
    try:
        _until_it_listens(proxy)
        yield proxy
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def _until_it_listens(proxy: Proxy) -> None:
    ends = time.monotonic() + _PATIENCE_S
    for port in (proxy.https, proxy.dicom, proxy.dicom_tls):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < ends, proxy.log.read_text()
                time.sleep(0.02)
