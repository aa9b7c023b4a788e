from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dimse.responder import StoreRequest
from tests.cli.commands import Shell
from tests.corpus import WHEEL, make, part10
from tests.dimse.peers import Recording, listening
from tests.dimse.programs import dcmtk, free_port

J2K = WHEEL / "examples_jpeg2k.dcm"


def _files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path in paths:
        path.write_bytes(part10(make()))
    return paths


async def test_folders_are_sent_and_what_is_no_object_is_told(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    _files(folder, 3)
    (folder / "notes.txt").write_text("hello" * 100)
    handlers = Recording()
    async with listening(handlers) as listener:
        host, port = listener.address
        assert await shell("store", f"X@{host}:{port}", str(folder), "--associations", "2", "--json") == 1
        told = shell.json
        assert (told["stored"], told["warnings"], told["transcoded"]) == (3, 0, 0)
        assert [failure["file"] for failure in told["failures"]] == [str(folder / "notes.txt")]
        assert await shell("store", f"X@{host}:{port}", str(folder / "0.dcm"), "--aet", "SCANNER") == 0
    assert "1 stored (0 with a warning), 0 failed" in shell.out
    assert handlers.requests[-1].caller.calling_aet == "SCANNER"


async def test_a_warning_is_no_failure(shell: Shell, tmp_path: Path) -> None:
    handlers = Recording()
    handlers.status = 0xB000
    async with listening(handlers) as listener:
        host, port = listener.address
        assert await shell("store", f"X@{host}:{port}", str(_files(tmp_path / "in", 1)[0])) == 0
    assert "1 stored (1 with a warning), 0 failed" in shell.out


async def test_a_peer_that_is_away_is_told(shell: Shell, tmp_path: Path) -> None:
    [path] = _files(tmp_path / "in", 1)
    assert await shell("store", f"X@127.0.0.1:{free_port()}", str(path), "--attempts", "1") == 1
    assert "cannot be reached" in shell.out
    assert "(try again)" in shell.out


@pytest.mark.external("storescp")
async def test_what_the_peer_does_not_take_is_transcoded(shell: Shell, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    async with dcmtk("storescp", "+xi", "-od", str(there)) as port:
        words = ("store", f"STORESCP@127.0.0.1:{port}", str(J2K))
        assert await shell(*words, "--no-transcode") == 1
        assert "does not accept" in shell.out
        assert await shell(*words, "--propose", "explicit") == 1
        assert await shell(*words) == 0
        assert "1 of them were sent as Implicit VR Little Endian" in shell.out
        assert await shell(*words, "--json", "--propose", "implicit") == 0
        assert shell.json["transcoded"] == 1
    [path] = there.iterdir()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert (pydicom.dcmread(path).pixel_array == pydicom.dcmread(J2K).pixel_array).all()


async def test_a_syntax_that_nothing_encodes_is_told(shell: Shell) -> None:
    assert await shell("store", "X@127.0.0.1:1", str(J2K), "--propose", "jpeg") == 2
    assert "explicit, implicit, deflated, big-endian" in shell.err


async def test_a_codec_that_is_missing_is_named(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The process that decodes sees no codecs, as where the extra is not installed.
    for name in ("gdcm", "openjpeg", "pylibjpeg", "jpeg_ls", "PIL"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))

    there = tmp_path / "there"
    there.mkdir()
    async with dcmtk("storescp", "+xi", "-od", str(there)) as port:
        assert await shell("store", f"STORESCP@127.0.0.1:{port}", str(J2K)) == 1
    assert "pip install 'dicomnode[codecs]'" in shell.out


class Discarding(Recording):
    """Counts bytes and keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    async def store(self, request: StoreRequest) -> int:
        self.begun.set()
        self.size += len(request.data)
        if request.rest is not None:
            async for chunk in request.rest:
                self.size += len(chunk)
        return 0


def _sparse(path: Path, size: int) -> None:
    """Write an object whose pixel data are `size` zeros that take no room."""
    whole = part10(make(Rows=1, Columns=1, PixelData=b"\0\0"), ExplicitVRLittleEndian)
    start = whole[:-6] + size.to_bytes(4, "little")
    path.write_bytes(start)
    os.truncate(path, len(start) + size)


async def _send_and_measure(port: int, path: Path) -> tuple[int, dict[str, int]]:
    """Return the peak RSS of the sending process in bytes, and what it told."""
    # Not the kernel's ru_maxrss, which remembers the process that this one was forked from.
    code = (
        "import re, sys; from dicomnode.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024)\n"
        "sys.exit(status)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "store", f"X@127.0.0.1:{port}", str(path), "--json",
        stdout=asyncio.subprocess.PIPE, cwd=path.parent,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    told, peak = out.decode().splitlines()
    return int(peak), json.loads(told)


async def test_a_gigabyte_is_sent_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.dcm"
    size = 1024 * 1024 * 1024
    _sparse(path, size)
    handlers = Discarding()
    async with listening(handlers) as listener:
        peak, told = await _send_and_measure(listener.address[1], path)
    assert told["stored"] == 1
    assert size < handlers.size < size + 10_000
    assert peak < 150 * 1024 * 1024


async def test_ctrl_c_tells_what_was_sent(tmp_path: Path) -> None:
    paths = _files(tmp_path / "in", 3)
    handlers = Recording()
    handlers.gate = asyncio.Event()
    async with listening(handlers) as listener:
        host, port = listener.address
        program = (sys.executable, "-m", "dicomnode", "store", f"X@{host}:{port}", *map(str, paths), "--json")
        process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE, cwd=tmp_path)
        await handlers.begun.wait()
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        handlers.gate.set()
    assert process.returncode == 130
    assert json.loads(out)["stored"] == 0
