"""What is asked of a store that holds all the data: metadata, a study, frames, queries. Each answer is checked."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from time import perf_counter

from bench.data import Data, Instance
from bench.figures import Figure
from bench.processes import Failed
from bench.storms import Storm, storm
from bench.web import DICOM_JSON, Door, drain

FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
OBJECTS = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_FRAMES_ASKED = 400


def read_all(door: Door, data: Data, storm_s: int, folder: Path) -> list[Figure]:
    """Return the figures of every kind of reading. Raises: Failed where an answer is not what was stored."""
    return [
        *_metadata(door, data),
        _study(door, data),
        _frames(door, data, storm_s, folder),
        *_queries(door, data, storm_s, folder),
    ]


def _metadata(door: Door, data: Data) -> list[Figure]:
    figures = []
    path = f"/studies/{data.ct.instances[0].study_uid}/metadata"
    for time in ("first", "second"):
        began = perf_counter()
        body = door.get(path)
        seconds = perf_counter() - began
        _expect(len(json.loads(body)), len(data.ct.instances), "instances in the metadata")
        figures.append(Figure(f"WADO study metadata, {time}", "ms", seconds * 1000, len(data.ct.instances), len(body)))
    return figures


def _study(door: Door, data: Data) -> Figure:
    began = perf_counter()
    received = drain(door, f"/studies/{data.ct.instances[0].study_uid}", OBJECTS)
    seconds = perf_counter() - began
    if received < data.ct.total_bytes:
        raise Failed(f"the study came as {received} bytes, it has {data.ct.total_bytes}")
    return Figure("WADO study", "MB/s", data.ct.total_bytes / seconds / 1e6, len(data.ct.instances), received)


def _frames(door: Door, data: Data, storm_s: int, folder: Path) -> Figure:
    step = max(1, len(data.ct.instances) // _FRAMES_ASKED)
    paths = [f"{_series_path(one)}/instances/{one.sop_uid}/frames/1" for one in data.ct.instances[::step]]
    body = door.get(paths[0], FRAMES)
    pixels = Path(data.ct.instances[0].path).read_bytes()[-data.ct.frame_bytes :]
    if pixels not in body:
        raise Failed("a frame is not the pixels that were sent")
    told = storm(door, paths, FRAMES, storm_s, folder)
    _expect_size(told, len(body))
    return _of_storm("WADO frames 512 KB, 4 connections", told)


def _queries(door: Door, data: Data, storm_s: int, folder: Path) -> list[Figure]:
    studies = {one.study_uid for one in (*data.ct.instances, *data.small.instances)}
    first = data.ct.instances[0]
    in_series = sum(one.series_uid == first.series_uid for one in data.ct.instances)
    asked = (
        ("QIDO studies, 4 connections", "/studies?limit=100", len(studies)),
        ("QIDO instances of a series, 4 connections", f"{_series_path(first)}/instances", in_series),
    )
    figures = []
    for row, path, count in asked:
        began = perf_counter()
        body = door.get(path)
        # Four at once on few cores: long enough for a slow contestant to answer each connection twice.
        lasting_s = max(storm_s // 2 + 1, min(20, ceil(8 * (perf_counter() - began))))
        _expect(len(json.loads(body)), count, "matches")
        told = storm(door, [path], DICOM_JSON, lasting_s, folder)
        _expect_size(told, len(body))
        figures.append(_of_storm(row, told))
    return figures


def _series_path(instance: Instance) -> str:
    return f"/studies/{instance.study_uid}/series/{instance.series_uid}"


def _of_storm(row: str, told: Storm) -> Figure:
    size = int(told.bytes_per_request)
    return Figure(row, "req/s", told.requests_per_s, size_bytes=size, p50_ms=told.p50_ms, p95_ms=told.p95_ms)


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise Failed(f"{found} {what}, {wanted} wanted")


def _expect_size(told: Storm, body: int) -> None:
    """The URIs in a body and its boundary may differ a little in length; an empty or cut body differs a lot."""
    if told.bytes_per_request < body * 0.98:
        raise Failed(f"answers of {told.bytes_per_request:.0f} bytes, {body} wanted")
