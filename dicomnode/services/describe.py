"""Describe what is kept: the metadata of instances as DICOM JSON, made from the heads of their objects."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import groupby
from typing import Protocol

import msgspec

from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.dicom_json import to_dicom_json
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from dicomnode.errors import BadInstance
from dicomnode.model.query import Location
from dicomnode.ports.cache import Cache

BulkUri = Callable[[Location], str]
Head = tuple[bytes, bool]

_BATCH = 50
_FIRST_HEAD = 16 * 1024
_LONGEST_HEAD = 64 * 1024 * 1024
_KEPT_S = 3600.0
_LARGEST_KEPT = 16 * 1024 * 1024


class Heads(Protocol):
    """Whoever gives the heads of objects: at least so many bytes of a data set, and whether that is all of it."""

    async def head(self, location: Location, length: int) -> Head:
        """Return the head. Raises: NotFound, BadInstance, PluginError."""
        ...


class Describe:
    """Describe instances, a series' worth of which is remembered under the digest of the keys of its objects.

    Keys are written once, so what is remembered is never out of date.
    """

    def __init__(self, heads: Heads, cache: Cache) -> None:
        self._heads = heads
        self._cache = cache

    async def instances(self, locations: Sequence[Location], bulk_uri: BulkUri) -> AsyncIterator[bytes]:
        """Yield one JSON array with the metadata of each instance, in order, in pieces.

        `bulk_uri` returns the URI that the path of a bulk value is appended to (".../instances/1.2.3/bulkdata").
        Raises: Unavailable; an instance that cannot be read is described by its UIDs alone.
        """
        opening = b"["
        for _, series in groupby(locations, key=lambda location: location.series_uid):
            async for piece in self._series(list(series), bulk_uri):
                yield opening + piece
                opening = b","
        yield b"]" if opening == b"," else b"[]"

    async def _series(self, locations: Sequence[Location], bulk_uri: BulkUri) -> AsyncIterator[bytes]:
        name = _name(locations, bulk_uri)
        known = await self._cache.get(name) if len(locations) > 1 else None
        if known is not None:
            yield known
            return
        pieces: list[bytes] = []
        size = 0
        for start in range(0, len(locations), _BATCH):
            piece = await self._batch(locations[start : start + _BATCH], bulk_uri)
            size += len(piece)
            if size <= _LARGEST_KEPT:
                pieces.append(piece)
            yield piece
        if len(locations) > 1 and size <= _LARGEST_KEPT:
            await self._cache.put(name, b",".join(pieces), _KEPT_S)

    async def _batch(self, locations: Sequence[Location], bulk_uri: BulkUri) -> bytes:
        heads = [await self._heads.head(location, _FIRST_HEAD) for location in locations]
        # One thread hop for all of them; those whose head was too short are few.
        found = await asyncio.to_thread(_described, locations, heads, bulk_uri)
        texts = [
            text if text is not None else await self._longer(location, bulk_uri)
            for location, text in zip(locations, found, strict=True)
        ]
        return b",".join(texts)

    async def _longer(self, location: Location, bulk_uri: BulkUri) -> bytes:
        length = _FIRST_HEAD
        while length < min(location.size, _LONGEST_HEAD):
            length *= 8
            head = await self._heads.head(location, length)
            (text,) = await asyncio.to_thread(_described, (location,), (head,), bulk_uri)
            if text is not None:
                return text
        return _by_uids(location)


def _described(locations: Sequence[Location], heads: Sequence[Head], bulk_uri: BulkUri) -> list[bytes | None]:
    """Return the DICOM JSON of each head, None where the head is too short."""
    return [_one(location, head, bulk_uri) for location, head in zip(locations, heads, strict=True)]


def _one(location: Location, head: Head, bulk_uri: BulkUri) -> bytes | None:
    base = bulk_uri(location)
    data_set, complete = head
    syntax = transfer_syntax.of(location.transfer_syntax_uid)
    uid = EXPLICIT_VR_LITTLE_ENDIAN if syntax.deflated else syntax.uid
    try:
        return to_dicom_json(data_set, uid, lambda path: f"{base}/{path}", complete=complete)
    except BadInstance:
        return _by_uids(location)


def _by_uids(location: Location) -> bytes:
    """Return what the index knows of an object that cannot be read, so that one does not hide the others."""
    uids = (
        ("00080016", location.sop_class_uid),
        ("00080018", location.sop_uid),
        ("0020000D", location.study_uid),
        ("0020000E", location.series_uid),
    )
    return msgspec.json.encode({tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids})


def _name(locations: Sequence[Location], bulk_uri: BulkUri) -> str:
    digest = hashlib.sha256(bulk_uri(locations[0]).encode())
    for location in locations:
        digest.update(location.key.encode() + b"\n")
    return f"metadata/{digest.hexdigest()}"
