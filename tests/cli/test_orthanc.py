from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pydicom
import pytest

from tests.cli.commands import Shell
from tests.corpus import WHEEL, make, part10
from tests.dimse.programs import dcmtk, free_port

STUDY = "1.2.3.50"

pytestmark = pytest.mark.external("Orthanc")


@asynccontextmanager
async def orthanc(folder: Path, destination: int = 0) -> AsyncIterator[str]:
    """Run Orthanc; yield what to call it. DEST at port `destination` is a modality that it knows."""
    port = free_port()
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "DicomAet": "ORTHANC",
                "DicomPort": port,
                "HttpServerEnabled": False,
                "StorageDirectory": str(folder / "orthanc"),
                "DicomModalities": {
                    "dest": ["DEST", "127.0.0.1", destination or 104],
                    "me": {"AET": "DICOMNODE", "Host": "127.0.0.1", "Port": 104},
                },
                "DicomAlwaysAllowGet": True,
                "DicomAlwaysAllowFind": True,
                "DicomAlwaysAllowMove": True,
                "Plugins": [],
            }
        )
    )
    server = subprocess.Popen(
        ["Orthanc", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TCP_NODELAY": "1"},
    )
    try:
        for _ in range(400):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield f"ORTHANC@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def _files(folder: Path) -> list[str]:
    folder.mkdir()
    paths = []
    for number in range(3):
        path = folder / f"{number}.dcm"
        path.write_bytes(
            part10(make(StudyInstanceUID=STUDY, SOPInstanceUID=f"{STUDY}.{number}", PatientName="Müller^Jörg"))
        )
        paths.append(str(path))
    return [*paths, str(WHEEL / "examples_jpeg2k.dcm")]


@pytest.mark.external("storescp")
async def test_every_service_that_orthanc_has(shell: Shell, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    port = free_port()
    async with dcmtk("storescp", "-od", str(moved), port=port), orthanc(tmp_path, port) as peer:
        assert await shell("echo", peer) == 0
        assert await shell("store", peer, *_files(tmp_path / "in"), "--json") == 0
        assert shell.json["stored"] == 4
        assert shell.json["transcoded"] == 0

        assert await shell("find", peer, "-k", "PatientName=M*", "--json") == 0
        assert {row["0020000D"]["Value"][0] for row in shell.lines} == {STUDY}
        assert shell.lines[0]["00100010"]["Value"][0]["Alphabetic"] == "Müller^Jörg"

        there = tmp_path / "there"
        assert await shell("get", peer, "--to", str(there), "-k", f"StudyInstanceUID={STUDY}", "--json") == 0
        assert shell.json["completed"] == 3
        for number in range(3):
            sent = pydicom.dcmread(tmp_path / "in" / f"{number}.dcm")
            assert pydicom.dcmread(there / f"{STUDY}.{number}.dcm") == sent

        assert await shell("move", peer, "--to", "DEST", "-k", f"StudyInstanceUID={STUDY}", "--json") == 0
        assert shell.json["completed"] == 3
        assert len(list(moved.iterdir())) == 3

        assert await shell("commit", peer, str(tmp_path / "in"), "--timeout", "1") == 1
