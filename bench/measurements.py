"""The measurements. Each starts one contestant empty, drives its doors, checks what it kept, and ends it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import msgspec

from bench import asking, bare, reading
from bench.cluster import Cluster, OrthancPostgres
from bench.contestants import Contestant, ForkingStoreScp, Node, Orthanc, StoreScp
from bench.data import SHARDS, Data, ObjectSet
from bench.figures import Figure, latencies
from bench.senders import send
from bench.web import stow, stow_bodies

_MB = 1e6


class Setting(msgspec.Struct, frozen=True):
    """What is the same for every run: the objects, and how long a storm of requests lasts."""

    data: Data
    storm_s: int


class Measurement(msgspec.Struct, frozen=True):
    """A name for `--only`, who takes part, and the run of one contestant in an empty folder."""

    name: str
    contestants: tuple[str, ...]
    take: Callable[[Setting, str, Path], list[Figure]]


_KINDS: dict[str, type[Contestant]] = {"node": Node, "orthanc": Orthanc, "dcmtk": StoreScp}


def measurements() -> list[Measurement]:
    """Return all measurements, in the order in which they are taken."""
    stores = [
        Measurement(f"store-{associations}-{name}", (*_KINDS, "bare"), partial(_store, name, associations))
        for associations in (1, SHARDS)
        for name in ("ct", "small")
    ]
    stows = [
        Measurement(f"stow-{each}-{name}", ("node", "orthanc"), partial(_stow, name, each))
        for name in ("ct", "small")
        for each in (1, 50)
    ]
    nagle = Measurement("store-nagle", tuple(_KINDS), _nagle)
    both = ("node", "orthanc")
    pipelines = [
        Measurement(f"pipeline-{associations}-{name}", both, partial(_pipeline, name, associations))
        for associations in (1, SHARDS)
        for name in ("ct", "small")
    ]
    reads = [Measurement("read", both, _read), Measurement("retrieve", both, _retrieve)]
    return [*stores, nagle, *stows, *reads, *pipelines]


def pipeline_row(objects: str, associations: int) -> str:
    """Return the row in which the rate of a whole pipeline stands."""
    return f"{store_row(objects, associations)}, all the way"


def store_row(objects: str, associations: int) -> str:
    """Return the row in which a C-STORE rate stands."""
    return f"C-STORE {objects}, {associations} association{'s' * (associations > 1)}"


def _store(name: str, associations: int, setting: Setting, contestant: str, folder: Path) -> list[Figure]:
    objects = setting.data.named(name)
    row = store_row(objects.label, associations)
    if contestant == "bare":
        return [_rate(row, objects, bare.write_all(objects, folder, threads=associations))]
    forking = contestant == "dcmtk" and associations > 1
    kind = ForkingStoreScp if forking else _KINDS[contestant]
    with kind(folder) as receiver:
        began = perf_counter()
        seconds = send(objects, receiver.dicom_port, associations)
        receiver.wait_until(len(objects.instances))
        searchable = perf_counter() - began
        figures = [_rate(row, objects, seconds)]
        if contestant != "dcmtk":
            figures.append(Figure(f"{row}: until searchable", "s", searchable, len(objects.instances)))
        if not forking:  # its children are gone, and their memory with them
            figures.append(Figure(f"{row}: peak RSS", "MB", receiver.peak_rss_bytes() / _MB))
    return figures


def _pipeline(name: str, associations: int, setting: Setting, contestant: str, folder: Path) -> list[Figure]:
    """From the first byte sent until everything is found in PostgreSQL, of the node also until the warehouse has it."""
    objects = setting.data.named(name)
    row, count = pipeline_row(objects.label, associations), len(objects.instances)
    kind = {"node": Cluster, "orthanc": OrthancPostgres}[contestant]
    with kind(folder) as receiver:
        began = perf_counter()
        sent = send(objects, receiver.dicom_port, associations)
        receiver.wait_until(count)
        searchable = perf_counter() - began
        if isinstance(receiver, Cluster):
            receiver.wait_until_recorded(count)
        return [
            _rate(row, objects, perf_counter() - began),
            _rate(f"{row}: sent", objects, sent),
            _rate(f"{row}: searchable", objects, searchable),
            Figure(f"{row}: peak RSS", "MB", receiver.peak_rss_bytes() / _MB),
        ]


def _nagle(setting: Setting, contestant: str, folder: Path) -> list[Figure]:
    objects = setting.data.nagle
    with _KINDS[contestant](folder, nodelay=False) as receiver:  # both ends as they are installed
        seconds = send(objects, receiver.dicom_port, 1, nodelay=False)
        receiver.wait_until(len(objects.instances))
    return [_rate(f"C-STORE {objects.label}, sender without TCP_NODELAY", objects, seconds)]


def _stow(name: str, per_request: int, setting: Setting, contestant: str, folder: Path) -> list[Figure]:
    objects = setting.data.named(name).half()
    bodies = stow_bodies(objects.instances, per_request)
    row = f"STOW {objects.label}, {per_request} a request"
    with _KINDS[contestant](folder) as receiver:
        began = perf_counter()
        seconds = stow(receiver.door, bodies)
        total = perf_counter() - began
        receiver.wait_until(len(objects.instances))
        rss = receiver.peak_rss_bytes() / _MB
    p50_ms, p95_ms = latencies(seconds)
    rate = msgspec.structs.replace(_rate(row, objects, total), p50_ms=p50_ms, p95_ms=p95_ms)
    return [rate, Figure(f"{row}: peak RSS", "MB", rss)]


def _read(setting: Setting, contestant: str, folder: Path) -> list[Figure]:
    data = setting.data
    with _KINDS[contestant](folder) as receiver:
        for objects in (data.ct, data.small):
            send(objects, receiver.dicom_port, SHARDS)
        receiver.wait_until(len(data.ct.instances) + len(data.small.instances))
        figures = reading.read_all(receiver.door, data, setting.storm_s, folder)
        figures.append(Figure("all reads: peak RSS", "MB", receiver.peak_rss_bytes() / _MB))
    return figures


FIND, GET, MOVE = "C-FIND 1,000 matches", "C-GET 512 KB", "C-MOVE 512 KB"


def _retrieve(setting: Setting, contestant: str, folder: Path) -> list[Figure]:
    objects = setting.data.ct
    count = len(objects.instances)
    with _KINDS[contestant](folder) as holder:
        send(objects, holder.dicom_port, SHARDS)
        holder.wait_until(count)
        found = asking.find(objects, holder.dicom_port, folder)
        return [
            Figure(FIND, "match/s", asking.QUESTIONS * count / found, count),
            _rate(GET, objects, asking.get(objects, holder.dicom_port)),
            _rate(MOVE, objects, asking.move(objects, holder.dicom_port, holder.move_port, folder)),
            Figure("C-FIND, C-GET, C-MOVE: peak RSS", "MB", holder.peak_rss_bytes() / _MB),
        ]


def _rate(row: str, objects: ObjectSet, seconds: float) -> Figure:
    count = len(objects.instances)
    return Figure(row, "inst/s", count / seconds, count, objects.total_bytes // count)
