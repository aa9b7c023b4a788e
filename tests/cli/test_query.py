from __future__ import annotations

import asyncio
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from dicomnode import metrics
from dicomnode.cli.received import Received
from dicomnode.config import PeerTable
from dicomnode.dicom.identifier import write_identifier
from dicomnode.dimse import status
from dicomnode.dimse.command import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ
from dicomnode.dimse.outgoing import read_outgoing
from dicomnode.dimse.responder import Caller, Replies, Reply, Request, StoreRequest
from dicomnode.dimse.sender import store_files
from tests.cli.commands import Shell
from tests.corpus import make, part10
from tests.dimse.peers import Recording, listening
from tests.dimse.programs import dcmtk, free_port

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
STUDY = "1.2.3.40"


def _study(folder: Path, count: int = 4) -> list[Path]:
    folder.mkdir()
    paths = []
    for number in range(count):
        ds = make(
            StudyInstanceUID=STUDY,
            SeriesInstanceUID=f"{STUDY}.{number // 2}",
            SOPInstanceUID=f"{STUDY}.1.{number}",
            PatientName="Müller^Jörg",
            PatientID="P40",
            StudyDescription="Knie",
        )
        path = folder / f"{number}.dcm"
        path.write_bytes(part10(ds))
        paths.append(path)
    return paths


@asynccontextmanager
async def archive(folder: Path, paths: list[Path], move_to: int = 0) -> AsyncIterator[int]:
    """Run dcmqrscp with these objects; DEST at port `move_to` is a destination that it knows."""
    (folder / "db").mkdir()
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        "MaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\ndest = (DEST, localhost, {move_to or 104})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nARCHIVE {folder / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    async with dcmtk("dcmqrscp", "-c", str(config)) as port:
        results: list[Any] = []
        await store_files(PeerTable("ARCHIVE", "127.0.0.1", port), "ME", paths, results.append)
        assert all(result.is_stored for result in results)
        yield port


@pytest.mark.external("dcmqrscp")
async def test_dcmtk_is_asked_and_answers(shell: Shell, tmp_path: Path) -> None:
    async with archive(tmp_path, _study(tmp_path / "study")) as port:
        peer = f"ARCHIVE@127.0.0.1:{port}"
        assert await shell("find", peer, "--json", "-k", "PatientID=P*", "-k", "0008,1030") == 0
        [study] = shell.lines
        assert study["0020000D"]["Value"] == [STUDY]
        assert study["00100010"]["Value"][0]["Alphabetic"] == "Müller^Jörg"
        assert study["00081030"]["Value"] == ["Knie"]

        assert await shell("find", peer, "--level", "series", "--json", "-k", f"StudyInstanceUID={STUDY}") == 0
        assert {row["0020000E"]["Value"][0] for row in shell.lines} == {f"{STUDY}.0", f"{STUDY}.1"}

        words = ("-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={STUDY}.1")
        assert await shell("find", peer, "--level", "image", "--limit", "1", "--json", *words) == 0
        assert len(shell.lines) == 1

        assert await shell("find", peer, "-k", "PatientID=nobody") == 0
        assert await shell("find", peer, "--level", "patient", "--root", "patient") == 0
        headings, row = (line.split("\t") for line in shell.out.splitlines())
        assert (headings[0], row[0]) == ("PatientName", "Müller^Jörg")


@pytest.mark.external("dcmqrscp")
async def test_dcmtk_sends_what_is_fetched(shell: Shell, tmp_path: Path) -> None:
    paths = _study(tmp_path / "study")
    there = tmp_path / "there"
    async with archive(tmp_path, paths) as port:
        peer = f"ARCHIVE@127.0.0.1:{port}"
        words = ("get", peer, "--to", str(there), "-k", f"StudyInstanceUID={STUDY}")
        assert await shell(*words, "--json") == 0
        assert shell.json["completed"] == 4
        assert {path.name for path in there.iterdir()} == {f"{STUDY}.1.{number}.dcm" for number in range(4)}
        for path in paths:
            sent, got = pydicom.dcmread(path), pydicom.dcmread(there / f"{pydicom.dcmread(path).SOPInstanceUID}.dcm")
            assert got == sent
            assert got.file_meta.SourceApplicationEntityTitle == "ARCHIVE"
        assert await shell(*words) == 0
        assert "0 written" in shell.out
        assert "4 were there already" in shell.out


@pytest.mark.external("dcmqrscp", "storescp")
async def test_dcmtk_moves_to_dcmtk(shell: Shell, tmp_path: Path) -> None:
    received = tmp_path / "received"
    received.mkdir()
    port = free_port()
    async with (
        dcmtk("storescp", "-od", str(received), port=port),
        archive(tmp_path, _study(tmp_path / "study"), port) as peer,
    ):
        words = ("move", f"ARCHIVE@127.0.0.1:{peer}", "-k", f"StudyInstanceUID={STUDY}", "--to")
        assert await shell(*words, "DEST", "--json") == 0
        assert shell.json["completed"] == 4
        assert len(list(received.iterdir())) == 4
        assert await shell(*words, "NOBODY") == 1
        assert "0xa801" in shell.out


class Sent:
    sop_class = "1.2.840.10008.5.1.4.1.1.2"

    def __init__(self, uid: str, data: bytes, rest: Any = None, syntax: str = "1.2.840.10008.1.2.1") -> None:
        self.uid, self.syntax = uid, syntax
        self.data, self.rest = data, rest


class Qr(Recording):
    """An archive whose answers are made up here, so that they can be cut off."""

    def __init__(self, count: int = 1000) -> None:
        super().__init__()
        self._count = count
        self.match: dict[str, Any] = {}
        self.objects: list[Sent] = []
        self.asked: list[Request] = []
        self.cancelled = asyncio.Event()
        self.answered = 0
        self.operations = {
            (C_FIND_RQ, FIND): self.find,
            (C_MOVE_RQ, MOVE): self.move,
            (C_GET_RQ, GET): self.get,
        }

    async def find(self, request: Request) -> Replies:
        self.asked.append(request)
        for number in range(self._count):
            if request.cancellation.asked:
                self.cancelled.set()
                yield Reply(status.CANCELLED)
                return
            self.answered += 1
            match = self.match or {"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}}
            yield Reply(status.PENDING, write_identifier(match, request.transfer_syntax_uid))
            await asyncio.sleep(0.01)
        yield Reply(status.SUCCESS)

    async def move(self, request: Request) -> Replies:
        self.asked.append(request)
        for number in range(self._count):
            if request.cancellation.asked:
                self.cancelled.set()
                yield Reply(status.CANCELLED, remaining=self._count - number, completed=number, failed=0, warning=0)
                return
            yield Reply(status.PENDING, remaining=self._count - number, completed=number, failed=0, warning=0)
            await asyncio.sleep(0.01)
        failed = write_identifier({"00080058": {"vr": "UI", "Value": ["1.2.3"]}}, request.transfer_syntax_uid)
        yield Reply(status.SUBOPERATIONS_WITH_FAILURES, failed, completed=2, failed=1, warning=1)

    async def get(self, request: Request) -> Replies:
        told = [
            await request.partner.store(one.sop_class, one.uid, one.syntax, one.data, one.rest) for one in self.objects
        ]
        yield Reply(status.SUCCESS, completed=sum(one == 0 for one in told), failed=sum(one != 0 for one in told))


async def test_a_limit_cancels(shell: Shell) -> None:
    handlers = Qr()
    async with listening(handlers) as listener:
        host, port = listener.address
        assert await shell("find", f"X@{host}:{port}", "--limit", "3", "--json") == 0
        await asyncio.wait_for(handlers.cancelled.wait(), 20)
    assert len(shell.lines) == 3
    assert handlers.answered < 1000


async def test_failures_of_a_move_are_listed(shell: Shell) -> None:
    handlers = Qr(2)
    async with listening(handlers) as listener:
        host, port = listener.address
        words = ("move", f"X@{host}:{port}", "--to", "DEST", "-k", "StudyInstanceUID=1.2")
        assert await shell(*words) == 1
        assert "3 sent (1 with a warning), 1 failed" in shell.out
        assert "failed: 1.2.3" in shell.out
        assert await shell(*words, "--json") == 1
        assert shell.json["failed_uids"] == ["1.2.3"]
    assert handlers.asked[0].command.move_destination == "DEST"


async def test_a_peer_without_the_service_is_told(shell: Shell, tmp_path: Path) -> None:
    async with listening(Recording()) as listener:
        host, port = listener.address
        for words in (["find"], ["move", "--to", "X"], ["get", "--to", str(tmp_path / "x")]):
            assert await shell(words[0], f"X@{host}:{port}", *words[1:]) == 1
            assert f"does not accept {FIND[:-1]}" in shell.err


async def test_a_title_that_is_none_is_told(shell: Shell) -> None:
    for words in (["find", "--aet", "MUCH TOO LONG A TITLE"], ["move", "--to", "A\\B"]):
        assert await shell(words[0], "X@127.0.0.1:1", *words[1:]) == 2
        assert "is no AE title" in shell.err


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("PatientNam=X", "did you mean PatientName"),
        ("PatientID.Modality=CT", "no sequence"),
        ("Rows=a", "no such value"),
    ],
)
async def test_keys_that_are_none_are_told(shell: Shell, key: str, told: str) -> None:
    assert await shell("find", "X@127.0.0.1:1", "-k", key) == 2
    assert told in shell.err


async def test_names_stay_in_the_folder_and_nothing_is_overwritten(shell: Shell, tmp_path: Path) -> None:
    handlers, folder = Qr(), tmp_path / "folder"
    folder.mkdir()
    (folder / "1.2.3.dcm").write_bytes(b"mine")
    (folder / "1.2.4.dcm").symlink_to(tmp_path / "outside")
    hostile = ["../../etc/passwd", "/tmp/x", "..", "", "1.2.3", "1.2.4", "a\\b", "1.2.3\n4", "x" * 200]
    handlers.objects = [Sent(uid, b"\x08\0\x18\0UI\x02\x001\0") for uid in hostile]
    async with listening(handlers) as listener:
        host, port = listener.address
        words = ("get", f"X@{host}:{port}", "--to", str(folder), "-k", "StudyInstanceUID=1.2")
        assert await shell(*words) == 0
        assert f"{len(hostile)} written" in shell.out
        assert await shell(*words) == 0
        assert f"{len(hostile)} were there already" in shell.out
    assert (folder / "1.2.3.dcm").read_bytes() == b"mine"
    assert not (tmp_path / "outside").exists()
    assert len(list(folder.iterdir())) == len(hostile) + 2
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "empty"}


async def test_a_large_object_is_received_in_pieces(shell: Shell, tmp_path: Path) -> None:
    async def rest() -> AsyncIterator[bytes]:
        for number in range(9):
            yield bytes([number]) * 1_000_000

    handlers = Qr()
    handlers.objects = [Sent("1.2.9", b"12", rest())]
    async with listening(handlers) as listener:
        host, port = listener.address
        assert await shell("get", f"X@{host}:{port}", "--to", str(tmp_path / "to"), "-k", "PatientID=1", "--json") == 0
    [path] = (tmp_path / "to").iterdir()
    assert path.read_bytes().endswith(b"12" + b"".join(bytes([number]) * 1_000_000 for number in range(9)))


async def test_kinds_that_are_known_come_as_they_are_kept(shell: Shell, tmp_path: Path) -> None:
    handlers = Qr(1)
    handlers.match = {"00080062": {"vr": "UI", "Value": [Sent.sop_class]}}
    data = b"\x08\0\x18\0UI\x02\x001\0"
    handlers.objects = [Sent("1.2.9", data, syntax=JPEG2000Lossless), Sent("1.2.8", data, syntax=RLELossless)]
    async with listening(handlers) as listener:
        host, port = listener.address
        words = ("-k", "StudyInstanceUID=1.2")
        assert await shell("get", f"X@{host}:{port}", "--to", str(tmp_path / "to"), *words) == 0
    assert read_outgoing(tmp_path / "to" / "1.2.9.dcm").transfer_syntax_uid == JPEG2000Lossless
    assert read_outgoing(tmp_path / "to" / "1.2.8.dcm").transfer_syntax_uid == RLELossless


@pytest.mark.parametrize(
    "words", [["find"], ["move", "--to", "DEST", "-k", "StudyInstanceUID=1.2"]], ids=["find", "move"]
)
async def test_ctrl_c_asks_the_peer_to_stop_and_releases(words: list[str], tmp_path: Path) -> None:
    handlers = Qr(5000)
    released = metrics.ASSOCIATIONS.labels("released")._value
    before = released.get()
    async with listening(handlers) as listener:
        host, port = listener.address
        program = (sys.executable, "-m", "dicomnode", words[0], f"X@{host}:{port}", *words[1:])
        process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE, cwd=tmp_path)
        while not handlers.asked:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(handlers.cancelled.wait(), 20)
        await process.communicate()
        assert process.returncode == 130
        for _ in range(400):
            if released.get() == before + 1:
                break
            await asyncio.sleep(0.05)
        assert released.get() == before + 1


async def test_a_folder_that_is_full_is_told_to_the_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dicomnode.cli.received._write", full)
    received = Received(tmp_path)
    request = StoreRequest(Caller(), "1.2", generate_uid(), "1.2.840.10008.1.2.1", memoryview(b"12"))
    assert await received.keep(request) == status.OUT_OF_RESOURCES
    assert list(tmp_path.iterdir()) == []


async def test_files_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    received = Received(tmp_path)
    request = StoreRequest(Caller(), "1.2", "1.2.3", "1.2.840.10008.1.2.1", memoryview(b"12"))
    assert await received.keep(request) == status.SUCCESS
    (tmp_path / "other").write_text("")
    assert stat.S_IMODE((tmp_path / "1.2.3.dcm").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
