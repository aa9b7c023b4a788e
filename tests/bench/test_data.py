from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from bench.data import SHARDS, Data, prepare
from bench.web import stow_bodies


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return prepare(tmp_path_factory.mktemp("bench"), ct=16, small=240)


def test_the_manifest_says_what_the_files_hold(data: Data) -> None:
    for instance in (*data.ct.instances, *data.small.instances[::20]):
        dataset = pydicom.dcmread(instance.path)
        uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        assert uids == (instance.study_uid, instance.series_uid, instance.sop_uid)
        assert Path(instance.path).stat().st_size == instance.size_bytes
    assert len(pydicom.dcmread(data.ct.instances[0].path).PixelData) == data.ct.frame_bytes == 512 * 1024


def test_sizes_and_headers_are_what_the_targets_speak_of(data: Data) -> None:
    assert 12_000 < data.small.instances[0].size_bytes < 14_000
    assert 240 <= sum(1 for _ in pydicom.dcmread(data.ct.instances[0].path).iterall()) <= 270


def test_studies_and_series_are_complete_and_no_object_repeats(data: Data) -> None:
    assert len({one.study_uid for one in data.ct.instances}) == 1
    assert len({one.series_uid for one in data.ct.instances}) == 4
    assert len({one.study_uid for one in data.small.instances}) == 20
    assert len({one.series_uid for one in data.small.instances}) == 80
    assert len({one.sop_uid for one in (*data.ct.instances, *data.small.instances)}) == 256


def test_every_sender_of_eight_has_its_share(data: Data) -> None:
    shares = [len(list((Path(data.ct.folder) / str(shard)).iterdir())) for shard in range(SHARDS)]
    assert shares == [2] * SHARDS


def test_data_once_made_is_kept(data: Data) -> None:
    folder = Path(data.ct.folder).parents[1]
    assert prepare(folder, ct=16, small=240) == data


def test_stow_bodies_hold_every_file_whole(data: Data) -> None:
    chosen = data.small.instances[:7]
    bodies = stow_bodies(chosen, 3)
    assert [body.count(b"Content-Type: application/dicom\r\n") for body in bodies] == [3, 3, 1]
    for number, instance in enumerate(chosen):
        assert Path(instance.path).read_bytes() in bodies[number // 3]
