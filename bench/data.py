"""The objects that are sent: CT slices of 512 KB and small images of 12 KB, made once and kept in a cache folder.

Every contestant starts empty for every measurement, so one set of UIDs serves all; nothing here is a real patient's.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from bench.template import header, write_object

SHARDS = 8
NAGLE_OBJECTS = 200
_LAYOUT = 1  # raise when the objects change, so that an old cache is not taken for a new one


class Instance(msgspec.Struct, frozen=True):
    """One object on disk and the UIDs by which the web doors are asked for it."""

    path: str
    study_uid: str
    series_uid: str
    sop_uid: str
    size_bytes: int


class ObjectSet(msgspec.Struct, frozen=True):
    """Objects of one kind, in `SHARDS` folders under `folder`, one folder for each of eight senders."""

    name: str
    label: str
    folder: str
    frame_bytes: int
    instances: tuple[Instance, ...]

    @property
    def total_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(instance.size_bytes for instance in self.instances)

    def half(self) -> ObjectSet:
        """Return the first half of the objects; `folder` still holds all."""
        return msgspec.structs.replace(self, instances=self.instances[: len(self.instances) // 2])


class Data(msgspec.Struct, frozen=True):
    """Everything the benchmark sends."""

    ct: ObjectSet
    small: ObjectSet
    nagle: ObjectSet

    def named(self, name: str) -> ObjectSet:
        """Return the set of that name."""
        return {one.name: one for one in (self.ct, self.small, self.nagle)}[name]


class _Kind(msgspec.Struct, frozen=True):
    name: str
    label: str
    sop_class_uid: str
    side: int
    studies: int
    series: int
    count: int


def prepare(folder: Path | None, ct: int, small: int) -> Data:
    """Return the data of `ct` slices and `small` images, made in `folder` unless they stand there already.

    `folder` None is a private folder of this user under the temporary one. Raises: SystemExit if that is not ours.
    """
    root = (folder or _own_folder()) / f"v{_LAYOUT}-{ct}-{small}"
    manifest = root / "manifest.json"
    if not manifest.exists():
        shutil.rmtree(root, ignore_errors=True)
        data = _make(root, ct, small)
        manifest.write_bytes(msgspec.json.encode(data))
    data = msgspec.json.decode(manifest.read_bytes(), type=Data)
    warm(data)
    return data


def warm(data: Data) -> None:
    """Leave every file in the page cache, so that no sender waits for the disk."""
    buffer = bytearray(1 << 20)
    for instance in (*data.ct.instances, *data.small.instances):
        with Path(instance.path).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"dicomnode-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise SystemExit(f"{folder} is not ours; name another folder with --data")
    return folder


def _make(root: Path, ct: int, small: int) -> Data:
    slices = _make_set(root, _Kind("ct", "512 KB", CTImageStorage, 512, 1, 4, ct))
    images = _make_set(root, _Kind("small", "12 KB", MRImageStorage, 64, 20, 4, small))
    return Data(slices, images, _link_nagle(root / "nagle", images))


def _make_set(root: Path, kind: _Kind) -> ObjectSet:
    noise = random.Random(kind.name)  # the same bytes on every machine
    instances = []
    for number, (template, series) in enumerate(_plan(kind)):
        path = root / kind.name / str(number % SHARDS) / f"{number:05}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        template.InstanceNumber = number % series + 1
        template.SOPInstanceUID = generate_uid()
        template.PixelData = noise.randbytes(kind.side * kind.side * 2)
        write_object(path, template)
        instances.append(_described(path, template))
    return ObjectSet(kind.name, kind.label, str(root / kind.name), kind.side * kind.side * 2, tuple(instances))


def _plan(kind: _Kind) -> Iterator[tuple[Dataset, int]]:
    """Yield, for each object of `kind`, the header of its series and the size of that series."""
    total = kind.studies * kind.series
    for series in range(total):
        size = kind.count * (series + 1) // total - kind.count * series // total
        if series % kind.series == 0:
            study_uid = generate_uid()
        template = header(kind.sop_class_uid, kind.side, study_uid, series // kind.series)
        template.SeriesInstanceUID = generate_uid()
        template.SeriesNumber = series % kind.series + 1
        for _ in range(size):
            yield template, size


def _described(path: Path, dataset: Dataset) -> Instance:
    uids = (str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID))
    return Instance(str(path), *uids, path.stat().st_size)


def _link_nagle(folder: Path, images: ObjectSet) -> ObjectSet:
    folder.mkdir()
    chosen = images.instances[:NAGLE_OBJECTS]
    for instance in chosen:
        os.link(instance.path, folder / Path(instance.path).name)
    return ObjectSet("nagle", images.label, str(folder), images.frame_bytes, chosen)
