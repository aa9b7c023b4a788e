"""An object far larger than what may be held in memory goes through every door without being held."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import instances, storescu

MIB = 1024 * 1024
SIZE = 400 * MIB


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _peak_rss(node: Running) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A sparse file: a header and 400 MiB of pixels."""
    ds = make(Rows=16384, Columns=12800, BitsAllocated=16)
    ds.PixelData = b"\x01\x02"
    file = part10(ds)
    at = file.rindex(b"\xe0\x7f\x10\x00OW\x00\x00") + 8
    path = tmp_path / "large.dcm"
    with path.open("wb") as out:
        out.write(file[:at] + struct.pack("<L", SIZE))
        out.truncate(at + 4 + SIZE)
    return path


@pytest.mark.timeout(180)
@pytest.mark.external("storescu")
def test_dimse_streams(node: Running, large: Path) -> None:
    idle = _peak_rss(node)
    sent = storescu(node, large)
    assert sent.returncode == 0, sent.stderr
    assert _peak_rss(node) - idle < 60 * MIB
    _check(node, large)


@pytest.mark.timeout(180)
@pytest.mark.external("getscu")
def test_get_and_move_stream(start: Callable[..., Running], large: Path, tmp_path: Path) -> None:
    port = free_port()
    node = start(f"peers.taker=TAKER@127.0.0.1:{port}")
    assert storescu(node, large).returncode == 0
    idle = _peak_rss(node)
    [row] = instances(node)
    study = row["0020000D"]["Value"][0]
    options = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}", *map(str, node.scp)]
    for program, more in (("getscu", ["-B", "-od"]), ("movescu", ["-aem", "TAKER"])):
        folder = tmp_path / program
        folder.mkdir()
        storescp = subprocess.Popen(["storescp", "-B", "+xa", "-od", str(folder), str(port)])
        try:
            _wait_for(port)
            words = [program, *more, *([str(folder)] if program == "getscu" else []), *options]
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        finally:
            storescp.kill()
            storescp.wait(10)
        assert done.returncode == 0, done.stderr
        [got] = folder.iterdir()
        assert got.stat().st_size > SIZE
        got.unlink()
    assert _peak_rss(node) - idle < 60 * MIB


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.mark.timeout(180)
def test_stow_streams_and_wado_streams_back(node: Running, large: Path) -> None:
    idle = _peak_rss(node)
    host, port = node.url.removeprefix("http://").rsplit(":", 1)
    head = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
    tail = b"\r\n--x--\r\n"
    length = len(head) + large.stat().st_size + len(tail)
    with socket.create_connection((host, int(port)), timeout=120) as connection, large.open("rb") as file:
        request = (
            "POST /dicomweb/studies HTTP/1.1\r\nHost: node\r\nConnection: close\r\n"
            f'Content-Length: {length}\r\nContent-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n'
        )
        connection.sendall(request.encode() + head)
        connection.sendfile(file)
        connection.sendall(tail)
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200")
    _check(node, large)
    assert _peak_rss(node) - idle < 60 * MIB


def _check(node: Running, large: Path) -> None:
    (row,) = instances(node)
    study, series, sop = (row[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    host, port = node.url.removeprefix("http://").rsplit(":", 1)
    received = 0
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(
            f"GET /dicomweb/studies/{study}/series/{series}/instances/{sop} HTTP/1.1\r\nHost: node\r\n"
            "Accept: application/dicom\r\nConnection: close\r\n\r\n".encode()
        )
        while chunk := connection.recv(MIB):
            received += len(chunk)
    assert received > SIZE
    (kept,) = (node.data_dir / "storage").rglob("*.dcm")
    assert kept.stat().st_size > SIZE
    with kept.open("rb") as file:
        file.seek(-16, 2)
        assert file.read() == bytes(16)
