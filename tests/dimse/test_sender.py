from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGExtended12Bit
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context

from dicomnode.config import LimitsTable, PeerTable, StoreScpTable
from dicomnode.dimse.items import Associate
from dicomnode.dimse.listener import Listener
from dicomnode.dimse.outgoing import Opened, Outgoing, read_outgoing
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.responder import Caller, StoreRequest
from dicomnode.dimse.retry import ONCE, Retry
from dicomnode.dimse.scp import Visitor
from dicomnode.dimse.sender import Sending, Sent, send, store_files
from dicomnode.errors import BadInstance
from dicomnode.services.transcode import Transcode
from tests.corpus import corpus_files, data_set_of, identified, make, needs_corpus, part10
from tests.dimse.peers import Recording, anyone, listening
from tests.dimse.programs import dcmtk
from tests.dimse.requests import CT, EXPLICIT, IMPLICIT


def _files(folder: Path, count: int, **attributes: Any) -> list[Path]:
    paths = []
    for number in range(count):
        path = folder / f"{number}.dcm"
        path.write_bytes(part10(make(InstanceNumber=number, **attributes)))
        paths.append(path)
    return paths


SOON = Retry(first_s=0.02, most_s=0.1)


async def _send(peer: PeerTable, paths: list[Path], **options: Any) -> dict[Path, Sent[Outgoing]]:
    results: list[Sent[Outgoing]] = []
    counts = await store_files(peer, "ME", paths, results.append, Sending(**{"retry": SOON} | options))
    assert sorted(r.sendable.path for r in results) == sorted(paths)
    assert counts.stored == sum(r.is_stored for r in results)
    assert counts.failed == len(paths) - counts.stored
    assert counts.warnings == sum(r.is_warning for r in results)
    return {result.sendable.path: result for result in results}


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
        *((stored, True, False) for stored in (0x0000, 0xB000, 0xB006, 0xB007, 0x0001, 0x0107, 0x0111, 0x0116)),
        *((full, False, True) for full in (0xA700, 0xA701)),
        *((refused, False, False) for refused in (0xA900, 0xC000, 0x0110, 0x0124)),
    ],
)
async def test_statuses_mean_what_the_standard_says(tmp_path: Path, status: int, stored: bool, transient: bool) -> None:
    handlers = Recording()
    handlers.status = status
    [path] = _files(tmp_path, 1)
    async with listening(handlers) as listener:
        results = await _send(PeerTable("X", *listener.address), [path], retry=ONCE)
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
    assert all(result.is_stored for result in results.values())
    assert handlers.data.count(b"") == 2


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
    opened = await read_outgoing(path).open()
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


class Loose:
    """An object that is no file. `broken`: after how many bytes it turns out that it cannot be read."""

    sop_class_uid = CT
    transfer_syntax_uid = EXPLICIT

    def __init__(self, number: int, *, broken: bool = False, size: int = 100) -> None:
        self.sop_instance_uid = f"1.2.3.{number}"
        self.data = bytes([number % 251]) * size
        self._broken = broken
        self.opened = 0

    async def open(self) -> Opened:
        self.opened += 1
        if not self._broken:
            return Opened(self.data[:64], self._rest()) if len(self.data) > 1000 else Opened(self.data)
        return Opened(self.data, self._failing())

    async def _rest(self) -> AsyncIterator[bytes]:
        for at in range(64, len(self.data), 5000):
            yield self.data[at : at + 5000]
            await asyncio.sleep(0)

    async def _failing(self) -> AsyncIterator[bytes]:
        yield b"some more"
        raise BadInstance("cannot be read to its end")


async def _send_loose(peer: PeerTable, sendables: Any, **options: Any) -> list[Sent[Loose]]:
    results: list[Sent[Loose]] = []
    await send(peer, "ME", sendables, results.append, Sending(**{"retry": SOON} | options))
    return results


class Answering(Recording):
    """Answers with one status after the other, then with success."""

    def __init__(self, *statuses: int) -> None:
        super().__init__()
        self._statuses = list(statuses)

    async def store(self, request: StoreRequest) -> int:
        await super().store(request)
        return self._statuses.pop(0) if self._statuses else 0


async def test_out_of_resources_is_tried_again() -> None:
    handlers = Answering(0, 0xA700, 0xA700)
    async with listening(handlers) as listener:
        results = await _send_loose(PeerTable("X", *listener.address), [Loose(n) for n in range(4)])
    assert [result.status for result in results] == [0, 0, 0, 0]
    assert len(handlers.data) == 6


async def test_out_of_resources_for_good_is_told_as_transient() -> None:
    handlers = Recording()
    handlers.status = 0xA700
    async with listening(handlers) as listener:
        results = await _send_loose(
            PeerTable("X", *listener.address), [Loose(n) for n in range(20)], retry=Retry(3, 0.01, 0.02)
        )
    assert len(results) == 20
    assert not any(result.is_stored for result in results)
    assert all(result.transient for result in results)
    assert 3 <= len(handlers.data) <= 3 * 9  # eight at a time


async def test_one_object_that_is_always_refused_holds_up_no_other() -> None:
    class Picky(Recording):
        async def store(self, request: StoreRequest) -> int:
            await super().store(request)
            return 0xA700 if request.affected_sop_instance_uid == "1.2.3.1" else 0

    handlers = Picky()
    async with listening(handlers) as listener:
        results = await _send_loose(PeerTable("X", *listener.address), [Loose(n) for n in range(30)])
    assert [result.sendable.sop_instance_uid for result in results if not result.is_stored] == ["1.2.3.1"]
    assert sum(request.affected_sop_instance_uid == "1.2.3.1" for request in handlers.requests) == 5


async def test_a_peer_that_comes_back_gets_the_rest() -> None:
    handlers = Recording()
    async with listening(handlers) as listener:
        port = listener.address[1]

    async def come_back() -> None:
        await asyncio.sleep(0.3)
        again = Listener(StoreScpTable(port=port, limits=LimitsTable(drain_s=1)), anyone, handlers)
        await again.open()
        back.append(again)

    back: list[Listener] = []
    waiting = asyncio.create_task(come_back())
    results = await _send_loose(
        PeerTable("X", "127.0.0.1", port), [Loose(n) for n in range(5)], retry=Retry(200, 0.05, 0.1), associations=2
    )
    await waiting
    await back[0].drain()
    assert all(result.is_stored for result in results)


async def test_a_peer_that_does_not_know_us_is_asked_once() -> None:
    asked = []

    def nobody(request: Associate, visitor: Visitor) -> Caller:
        asked.append(request)
        raise Rejection("not known here", 1, 1, 3)

    listener = Listener(StoreScpTable(port=0, limits=LimitsTable(drain_s=1)), nobody, Recording())
    await listener.open()
    results = await _send_loose(PeerTable("X", *listener.address), [Loose(n) for n in range(5)])
    await listener.drain()
    assert len(asked) == 1
    assert [(result.status, result.transient) for result in results] == [(None, False)] * 5
    assert "calling AE title not recognised" in results[0].problem


async def test_an_object_that_breaks_off_spoils_no_other() -> None:
    sendables = [Loose(n, broken=n in (1, 3)) for n in range(6)]
    handlers = Recording()
    async with listening(handlers) as listener:
        results = await _send_loose(PeerTable("X", *listener.address), sendables)
    failed = [result for result in results if not result.is_stored]
    assert {result.sendable for result in failed} == {sendables[1], sendables[3]}
    assert {result.problem for result in failed} == {"cannot be read to its end"}
    whole = {one.data for one in sendables if one not in (sendables[1], sendables[3])}
    assert whole <= set(handlers.data)


async def test_the_source_is_read_as_it_is_needed() -> None:
    read = 0

    async def source() -> AsyncIterator[Loose]:
        nonlocal read
        for number in range(3000):
            read += 1
            yield Loose(number, size=10)

    ahead: list[int] = []
    async with listening(Recording()) as listener:
        await send(
            PeerTable("X", *listener.address),
            "ME",
            source(),
            lambda sent: ahead.append(read),
            Sending(associations=2),
        )
    assert len(ahead) == 3000
    assert ahead[0] <= 1050
    assert all(read - index <= 1050 for index, read in enumerate(ahead))


async def test_a_slow_source_is_waited_for() -> None:
    async def source() -> AsyncIterator[Loose]:
        for number in range(3):
            await asyncio.sleep(0.3)
            yield Loose(number)

    handlers = Recording()
    async with listening(handlers) as listener:
        results = await _send_loose(PeerTable("X", *listener.address), source())
    assert [result.status for result in results] == [0, 0, 0]


async def test_nothing_to_send_is_no_association() -> None:
    assert await _send_loose(PeerTable("X", "127.0.0.1", 1), []) == []


@pytest.mark.parametrize("window", [1, 8])
async def test_objects_under_way_together_stay_apart(window: int) -> None:
    sendables = [Loose(n, size=200_000 if n % 3 else 50) for n in range(40)]
    handlers = Recording()
    async with listening(handlers) as listener:
        results = await _send_loose(PeerTable("X", *listener.address), sendables, window=window)
    assert all(result.is_stored for result in results)
    assert handlers.data == [one.data for one in sendables]  # whole, and in their order


async def test_fallbacks_need_contexts_too(tmp_path: Path) -> None:
    paths = []
    for number in range(100):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(make(SOPClassUID=f"1.2.276.0.99.{number}")))
        paths.append(path)
    handlers = Recording()
    async with listening(handlers) as listener, Transcode() as transcode:
        results = await _send(PeerTable("X", *listener.address), paths, transcoder=transcode)
    assert all(result.is_stored for result in results.values())
    assert len({request.caller.calling_aet for request in handlers.requests}) == 1


@needs_corpus
@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big"])
@pytest.mark.external("storescp", "dcmdjpeg")
async def test_dcmtk_receives_what_it_takes_and_the_pixels_are_the_same(syntax: str, tmp_path: Path) -> None:
    option = {"implicit": "+xi", "explicit": "+xe", "big": "+xb"}[syntax]
    paths = [path for path in corpus_files("transfer-syntaxes") if identified(path) is not None]
    paths = list({read_outgoing(path).sop_instance_uid: path for path in paths}.values())
    paths = paths[:: 4 if syntax == "big" else 1]
    assert len(paths) > 10
    targets = (EXPLICIT, IMPLICIT) if syntax != "big" else (str(ExplicitVRBigEndian),)
    async with (
        dcmtk("storescp", option, "--output-directory", str(tmp_path)) as port,
        Transcode(targets=targets) as made,
    ):
        results = await _send(PeerTable("STORESCP", "127.0.0.1", port), paths, transcoder=made)
    assert {path.name: r.problem for path, r in results.items() if not r.is_stored} == {}
    taken = {"implicit": {IMPLICIT}, "explicit": {EXPLICIT, IMPLICIT}, "big": {str(ExplicitVRBigEndian)}}[syntax]
    assert {r.transfer_syntax_uid for r in results.values()} <= taken | {EXPLICIT, IMPLICIT}
    received = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, tmp_path.iterdir())}
    for path in paths:
        sent = pydicom.dcmread(path)
        if sent.file_meta.TransferSyntaxUID == JPEGExtended12Bit:
            subprocess.run(["dcmdjpeg", path, tmp_path / "decoded"], check=True)
            sent = pydicom.dcmread(tmp_path / "decoded")
        assert np.array_equal(received[sent.SOPInstanceUID].pixel_array, sent.pixel_array), path


@needs_corpus
@pytest.mark.external("storescp")
async def test_dcmtk_receives_every_transfer_syntax(tmp_path: Path) -> None:
    paths = [path for path in corpus_files("transfer-syntaxes") if identified(path) is not None]
    paths = list({read_outgoing(path).sop_instance_uid: path for path in paths}.values())
    async with dcmtk("storescp", "--accept-all", "--output-directory", str(tmp_path)) as port:
        results = await _send(PeerTable("STORESCP", "127.0.0.1", port), paths)
    assert {path.name: r.problem for path, r in results.items() if not r.is_stored} == {}
    assert len(list(tmp_path.iterdir())) == len(paths)
