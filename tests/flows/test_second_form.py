"""What viewers do not show is kept in a transfer syntax that they do show as well; the original stays as it came."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tests.converting import JPEG_2000, MPEG_2, PLAIN, file_of, jpeg_2000, pixels_of
from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import retrieved, stow

SHOWN = f'transcoder.viewer_transfer_syntaxes=["1.2.840.10008.1.2","{PLAIN}"]'
AS_SHOWN = f"application/dicom; transfer-syntax={PLAIN}"


def _path(ds: Dataset) -> str:
    return f"/dicomweb/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def _as_shown(node: Running, ds: Dataset, patience_s: float = 30.0) -> Dataset:
    """Return the object as viewers show it, once it is kept so."""
    ends = time.monotonic() + patience_s
    while True:
        status, body = node.get(_path(ds), AS_SHOWN)
        if status == 200:
            return pydicom.dcmread(BytesIO(body))
        assert status == 406
        assert time.monotonic() < ends, node.told()[-2000:]
        time.sleep(0.1)


def _mpeg() -> bytes:
    ds = make(PixelData=b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00\x00\x00\x01\xb3")
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return part10(ds, UID(MPEG_2))


@pytest.mark.timeout(180)
def test_an_object_that_viewers_do_not_show(start: Callable[..., Running]) -> None:
    node = start(SHOWN)
    ds = jpeg_2000()
    sent = file_of(ds)
    assert stow(node, sent, _mpeg(), part10(make()))[0] == 200
    shown = _as_shown(node, ds)
    assert bytes(shown.PixelData) == pixels_of()
    assert shown.file_meta.TransferSyntaxUID == PLAIN
    kept = retrieved(node, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert data_set_of(kept) == data_set_of(sent)
    assert pydicom.dcmread(BytesIO(kept)).file_meta.TransferSyntaxUID == JPEG_2000
    ends = time.monotonic() + 20
    while (lines := _outcomes(node)) != {"Success": 1.0, "Failed": 1.0}:
        assert time.monotonic() < ends, lines
        time.sleep(0.1)
    assert node.stop() == 0
    checked = dicomnode("fsck", "--json", "--digests", *sets(node.data_dir, SHOWN))
    told = json.loads(checked.stdout)
    assert (checked.returncode, told["objects"], told["representations"], told["orphans"]) == (0, 3, 1, [])
    swept = json.loads(dicomnode("sweep", "--json", *sets(node.data_dir, SHOWN)).stdout)
    assert (swept["objects"], swept["published"]) == (3, 0)


def _outcomes(node: Running) -> dict[str, float]:
    """Return how many objects were converted, by outcome."""
    told = {}
    for line in node.get("/metrics")[1].decode().splitlines():
        if line.startswith("dicomnode_instances_converted_total{"):
            name, _, value = line.partition("} ")
            told[name.split('"')[1]] = float(value)
    return told


@pytest.mark.timeout(180)
def test_killed_in_the_middle_it_converts_the_rest(start: Callable[..., Running]) -> None:
    objects = [jpeg_2000() for _ in range(12)]
    node = start(SHOWN)
    for ds in objects:
        assert stow(node, file_of(ds))[0] == 200
    for _ in range(2):
        _as_shown(node, objects[0])
        node.kill()
        node = start(SHOWN, data_dir=node.data_dir)
    for ds in objects:
        assert bytes(_as_shown(node, ds).PixelData) == pixels_of()
    assert node.stop() == 0
    checked = dicomnode("fsck", "--json", "--digests", *sets(node.data_dir, SHOWN))
    told = json.loads(checked.stdout)
    assert (checked.returncode, told["objects"], told["representations"]) == (0, 12, 12)
