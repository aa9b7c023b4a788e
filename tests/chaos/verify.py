"""What must hold however many faults there were: all that was acknowledged is there, once, and as it was sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from dicomnode.backends import opened
from dicomnode.model.representation import original_of
from tests.chaos.cluster import Cluster
from tests.chaos.ledger import Acknowledged, Ledger
from tests.converting import JPEG_2000
from tests.corpus import data_set_of

_PATIENCE_S = 180.0
_PAGE = 1000


class Held(msgspec.Struct, frozen=True):
    """What the backends hold: storage keys of objects, those that the index and the warehouse name, and rows."""

    stored: Counter[str]
    indexed: Mapping[str, str]  # key -> SOP Instance UID
    recorded: Counter[str]
    rows: Mapping[str, int]


def wait_indexed(cluster: Cluster, ledger: Ledger, patience_s: float = _PATIENCE_S) -> None:
    """Return when a query finds all that is acknowledged by now."""
    wanted, ends = ledger.acknowledged().keys(), time.monotonic() + patience_s
    while True:
        found = _found(cluster)
        missing = wanted - found
        if not missing:
            return
        assert time.monotonic() < ends, f"{len(missing)} of {len(wanted)} are not found\n{cluster.told()}"
        cluster.revive()
        time.sleep(0.3)


def _found(cluster: Cluster) -> set[str]:
    """Return what is found, page by page. What comes in meanwhile shifts the pages, so some may be seen twice."""
    found, seen = set[str](), 0
    while True:
        path = f"/dicomweb/instances?limit={_PAGE}&offset={seen}"
        try:
            status, body = _get(cluster, path, "application/dicom+json")
        except (OSError, KeyError):  # it is being started
            return set()
        if status != 200:
            return found if status == 204 else set()
        page = json.loads(body)
        found.update(row["00080018"]["Value"][0] for row in page)
        seen += len(page)
        if len(page) < _PAGE:
            return found


def check_readable(cluster: Cluster, some: Collection[Acknowledged]) -> None:
    """Check that each of `some` is given back byte for byte, and what viewers do not show in a form that they do."""
    for one in some:
        path = f"/dicomweb/studies/{one.study}/series/{one.series}/instances/{one.sop}"
        status, body = _get(cluster, path, "application/dicom")
        assert status == 200, (status, body[:300])
        assert hashlib.sha256(data_set_of(body)).hexdigest() == one.sha256, "it is not as it was sent"
    for one in some:
        if one.syntax == JPEG_2000:
            path = f"/dicomweb/studies/{one.study}/series/{one.series}/instances/{one.sop}"
            _wait_form(cluster, path)


def _wait_form(cluster: Cluster, path: str) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while _get(cluster, path, "application/dicom; transfer-syntax=1.2.840.10008.1.2.1")[0] != 200:
        assert time.monotonic() < ends, f"an object is not converted\n{cluster.told()}"
        time.sleep(0.3)


def _get(cluster: Cluster, path: str, accept: str) -> tuple[int, bytes]:
    request = urllib.request.Request(cluster.url + path, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def check_once(cluster: Cluster, ledger: Ledger) -> Held:
    """Check that all that is acknowledged is stored, indexed and recorded once; a node of its own must be stopped.

    What a killed process had stored and not announced was acknowledged to nobody; a sweep makes it known, or tells that
    it is cut short, as `dicomnode fsck --repair` does for an operator.
    """
    ends = time.monotonic() + (_PATIENCE_S if cluster.layout.is_apart else 0)
    words: tuple[str, ...] = ("--repair",)
    while True:
        try:
            return _check_once(cluster, ledger, *words)
        except AssertionError:
            if time.monotonic() > ends:
                raise
            words = ()
            time.sleep(1.0)  # what was published again is on its way


def _check_once(cluster: Cluster, ledger: Ledger, *words: str) -> Held:
    told = cluster.command("fsck", "--digests", "--json", *words)
    assert told.stdout, told.stderr
    checked = json.loads(told.stdout)
    held = asyncio.run(_held(cluster))
    halves = set(checked["unknown"])
    acknowledged = ledger.acknowledged()
    assert (checked["missing"], checked["damaged"]) == ([], []), checked
    of_index = Counter(held.indexed.values())
    for sop in acknowledged:
        assert of_index[sop] == 1, f"an acknowledged instance is indexed {of_index[sop]} times"
    assert set(held.stored) - halves == set(held.indexed), "storage and index differ"
    assert held.indexed.keys() <= held.recorded.keys(), "an indexed object is in no row of the warehouse"
    assert max(held.recorded.values(), default=1) == 1, "an object is in the warehouse more than once"
    assert held.rows["dicom_object_meta"] == held.recorded.total()
    assert held.rows["dicom_image_meta"] == len(of_index), "an instance is not once in the warehouse"
    return held


async def _held(cluster: Cluster) -> Held:
    """Return what the backends hold."""
    async with opened(cluster.config()) as backends:
        stored = Counter([stored.key async for stored in backends.storage.list() if not original_of(stored.key)])
        indexed = {location.key: location.sop_uid async for location in backends.database.keys("")}
        recorded = Counter([key async for key in backends.warehouse.keys("")])
        return Held(stored, indexed, recorded, dict(await backends.warehouse.counts()))


def check_honest(ledger: Ledger, spans: Collection[tuple[float, float]]) -> None:
    """Check that nobody was refused but with "out of resources", and while something was away (`spans`)."""
    for refusal in ledger.refusals:
        assert refusal.is_out_of_resources, f"{refusal.status:#06x} was told"
        assert any(begin <= refusal.at <= end for begin, end in spans), "somebody was refused though nothing was away"


def summary(ledger: Ledger, held: Held) -> dict[str, Any]:
    """Return what a run was like, in a line."""
    return {
        "acknowledged": len(ledger),
        "stored": held.stored.total(),
        "rows": dict(held.rows),
        "refused": len(ledger.refusals),
        "lost associations": dict(ledger.lost),
    }
