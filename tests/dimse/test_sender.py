from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context

from dicomnode.config import LimitsTable, PeerTable
from dicomnode.dimse.outgoing import open_outgoing, read_outgoing
from dicomnode.dimse.responder import StoreRequest
from dicomnode.dimse.sender import Sent, store_files
from dicomnode.errors import BadInstance
from tests.corpus import corpus_files, data_set_of, identified, make, needs_corpus, part10
from tests.dimse.peers import Recording, listening


def _files(folder: Path, count: int, **attributes: Any) -> list[Path]:
    paths = []
    for number in range(count):
        path = folder / f"{number}.dcm"
        path.write_bytes(part10(make(InstanceNumber=number, **attributes)))
        paths.append(path)
    return paths


async def _send(peer: PeerTable, paths: list[Path], **options: Any) -> dict[Path, Sent]:
    results: list[Sent] = []
    await store_files(peer, "ME", paths, results.append, **options)
    assert sorted(r.path for r in results) == sorted(paths)
    return {result.path: result for result in results}


@pytest.mark.parametrize("associations", [1, 3])
async def test_every_file_is_sent_byte_for_byte(tmp_path: Path, associations: int) -> None:
    paths = _files(tmp_path, 20)
    handlers = Recording()
    async with listening(handlers) as listener:
        results = await _send(PeerTable("X", *listener.address), paths, associations=associations)
    assert all(result.is_stored and result.status == 0 for result in results.values())
    assert Counter(handlers.data) == Counter(data_set_of(path.read_bytes()) for path in paths)


async def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(part10(make(Rows=2000, Columns=2000, PixelData=os.urandom(8_000_000))))
    handlers = Recording()
    async with listening(handlers, LimitsTable(held_in_memory=100_000)) as listener:
        results = await _send(PeerTable("X", *listener.address), [path])
    assert results[path].is_stored
    assert handlers.data == [data_set_of(path.read_bytes())]


async def test_more_kinds_than_one_association_can_carry(tmp_path: Path) -> None:
    paths = []
    for number in range(150):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(make(SOPClassUID=f"1.2.276.0.99.{number}")))
        paths.append(path)
    handlers = Recording()
    async with listening(handlers) as listener:
        results = await _send(PeerTable("X", *listener.address), paths)
    assert all(result.is_stored for result in results.values())
    assert len(handlers.data) == 150


async def test_what_cannot_be_sent_is_told_and_the_rest_is_sent(tmp_path: Path) -> None:
    good = _files(tmp_path, 2)
    other = tmp_path / "other.txt"
    other.write_text("hello" * 100)
    directory = tmp_path / "DICOMDIR"
    directory.write_bytes(part10(make(SOPClassUID="1.2.840.10008.1.3.10")))
    gone = tmp_path / "gone.dcm"
    foreign = tmp_path / "find.dcm"
    foreign.write_bytes(part10(make(SOPClassUID="1.2.840.10008.5.1.4.1.2.2.1")))
    async with listening(Recording()) as listener:
        results = await _send(PeerTable("X", *listener.address), [other, directory, gone, foreign, *good])
    assert {path.name: result.problem[:22] for path, result in results.items()} == {
        "other.txt": "not DICOM: no 'DICM' a",
        "DICOMDIR": "a DICOMDIR is no objec",
        "gone.dcm": "cannot be read: No suc",
        "find.dcm": "the peer does not acce",
        "0.dcm": "",
        "1.dcm": "",
    }


@pytest.mark.parametrize(
    ("status", "stored", "transient"),
    [
        *((stored, True, False) for stored in (0x0000, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116)),
        *((full, False, True) for full in (0xA700, 0xA701)),
        *((refused, False, False) for refused in (0xA900, 0xC000, 0x0110, 0x0111, 0x0124)),
    ],
)
async def test_statuses_mean_what_the_standard_says(tmp_path: Path, status: int, stored: bool, transient: bool) -> None:
    handlers = Recording()
    handlers.status = status
    [path] = _files(tmp_path, 1)
    async with listening(handlers) as listener:
        results = await _send(PeerTable("X", *listener.address), [path])
    assert (results[path].status, results[path].is_stored, results[path].transient) == (status, stored, transient)


async def test_a_lost_association_is_asked_for_again(tmp_path: Path) -> None:
    class Failing(Recording):
        async def store(self, request: StoreRequest) -> int:
            if len(self.data) in (3, 7):
                self.data.append(b"")
                for acceptor in list(listener._sockets):
                    acceptor.layer.transport.abort()
            return await super().store(request)

    paths = _files(tmp_path, 12)
    handlers = Failing()
    async with listening(handlers) as listener:
        results = await _send(PeerTable("X", *listener.address), paths)
    assert sum(result.is_stored for result in results.values()) == 10
    assert [result.transient for result in results.values() if not result.is_stored] == [True, True]


async def test_a_peer_that_is_away_is_tried_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    results = await _send(PeerTable("X", "127.0.0.1", port), _files(tmp_path, 5), associations=2)
    assert all("cannot be reached" in result.problem and result.transient for result in results.values())


async def test_a_peer_with_one_slot_gets_everything_over_it(tmp_path: Path) -> None:
    paths = _files(tmp_path, 12)
    handlers = Recording()
    async with listening(handlers, LimitsTable(associations=1, drain_s=1)) as listener:
        results = await _send(PeerTable("X", *listener.address), paths, associations=3)
    assert all(result.is_stored for result in results.values())


async def test_a_deflated_data_set_of_odd_length_is_padded(tmp_path: Path) -> None:
    path = tmp_path / "deflated.dcm"
    for number in range(50):
        path.write_bytes(part10(make(PatientID="P" * number), DeflatedExplicitVRLittleEndian))
        data = data_set_of(path.read_bytes())
        if len(data) % 2:
            break
    else:
        path.write_bytes(path.read_bytes()[:-1])
        data = data_set_of(path.read_bytes())
    opened = await open_outgoing(read_outgoing(path))
    assert opened.first == data + b"\0"
    await opened.close()


def test_a_file_without_names_cannot_be_sent(tmp_path: Path) -> None:
    path = tmp_path / "bare.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(BadInstance):
        read_outgoing(path)


async def test_pynetdicom_receives_what_is_sent(tmp_path: Path) -> None:
    got: list[pydicom.Dataset] = []

    def on_store(event: Any) -> int:
        got.append(event.dataset)
        return 0x0000

    ae = AE()
    ae.maximum_pdu_size = 4096
    ae.supported_contexts = [*AllStoragePresentationContexts, build_context("1.2.840.10008.1.1")]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    assert server is not None
    assert server.socket is not None
    try:
        paths = _files(tmp_path, 3, Rows=64, Columns=64, PixelData=os.urandom(8192))
        peer = PeerTable("PYNETDICOM", "127.0.0.1", server.socket.getsockname()[1])
        results = await _send(peer, paths)
    finally:
        await asyncio.to_thread(server.shutdown)
    assert all(result.status == 0 for result in results.values())
    assert got == [pydicom.dcmread(path) for path in paths]


@needs_corpus
@pytest.mark.external("storescp")
async def test_dcmtk_receives_every_transfer_syntax(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = shutil.which("storescp")
    assert program is not None
    paths = [path for path in corpus_files("transfer-syntaxes") if identified(path) is not None]
    paths = list({read_outgoing(path).sop_instance_uid: path for path in paths}.values())
    server = subprocess.Popen(
        [program, "--accept-all", "--output-directory", str(tmp_path), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await _wait_for(port)
        results = await _send(PeerTable("STORESCP", "127.0.0.1", port), paths)
    finally:
        server.terminate()
        server.wait()
    assert {path.name: r.problem for path, r in results.items() if not r.is_stored} == {}
    assert len(list(tmp_path.iterdir())) == len(paths)


async def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return
