"""`kill -9` in the middle of an ingest loses nothing that was acknowledged, and leaves no half file that is served."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, retrieved, storescu

ROUNDS = 20
BIG = bytes(200_000)


def _stow_until_killed(node: Running, study: str, acknowledged: dict[str, bytes]) -> None:
    """Send one object after another; note those for which a success came back."""
    host, port = node.url.removeprefix("http://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        for number in range(100_000):
            ds = make(StudyInstanceUID=study, InstanceNumber=number, PixelData=BIG, Rows=316, Columns=316)
            file = part10(ds)
            body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--x--\r\n"
            headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
            connection.request("POST", "/dicomweb/studies", body, headers)
            reply = connection.getresponse()
            reply.read()
            if reply.status == 200:
                acknowledged[ds.SOPInstanceUID] = data_set_of(file)
    except (OSError, http.client.HTTPException):
        return  # the node is gone
    finally:
        connection.close()


@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing_acknowledged(start: Callable[..., Running], tmp_path: Path) -> None:
    data_dir, acknowledged = tmp_path / "data", dict[str, bytes]()
    for number in range(ROUNDS):
        node = start(data_dir=data_dir)
        senders = [
            threading.Thread(target=_stow_until_killed, args=(node, generate_uid(), acknowledged)) for _ in range(2)
        ]
        for sender in senders:
            sender.start()
        time.sleep(0.15 + 0.03 * number)  # at another moment each time
        node.kill()
        for sender in senders:
            sender.join()
    assert len(acknowledged) > ROUNDS
    node = start(data_dir=data_dir)
    found = {row["00080018"]["Value"][0]: row for row in instances(node)}
    assert acknowledged.keys() - found.keys() == set()
    for uid, row in found.items():
        got = retrieved(node, row["0020000D"]["Value"][0], row["0020000E"]["Value"][0], uid)
        if uid in acknowledged:
            assert data_set_of(got) == acknowledged[uid]
        else:  # it was received whole, and the node was killed before it could say so
            assert len(pydicom.dcmread(pydicom.filebase.DicomBytesIO(got)).PixelData) == len(BIG)
    assert node.stop() == 0
    checked = dicomnode("fsck", "--digests", *sets(data_dir))
    assert "missing" not in checked.stdout
    assert "damaged" not in checked.stdout


@pytest.mark.external("storescu")
def test_kill_while_a_modality_sends(start: Callable[..., Running], tmp_path: Path) -> None:
    folder = tmp_path / "send"
    folder.mkdir()
    study = generate_uid()
    for number in range(400):
        (folder / f"{number:04}.dcm").write_bytes(part10(make(StudyInstanceUID=study, InstanceNumber=number)))
    data_dir = tmp_path / "data"
    node = start(data_dir=data_dir)
    threading.Timer(0.35, node.kill).start()
    sent = storescu(node, folder, options=["-v"])
    acknowledged = (sent.stdout + sent.stderr).count("Received Store Response (Success)")
    node = start(data_dir=data_dir)
    assert len(instances(node)) >= acknowledged
    assert acknowledged > 0
