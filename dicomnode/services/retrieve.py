"""Give back what was kept: C-MOVE, C-GET and WADO meet here. Objects are read in pieces, frames by one ranged read."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

import msgspec

from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.bulk import Value, find_value, parse_bulk_path
from dicomnode.dicom.frames import FrameIndex, PixelHead, index_frames, read_pixel_head
from dicomnode.dicom.inflate import heads
from dicomnode.dicom.transfer_syntax import TransferSyntax
from dicomnode.errors import BadInstance, BadRequest, Corrupt, NotFound
from dicomnode.model.attributes import Level
from dicomnode.model.query import Location, Match, OneOf, Query
from dicomnode.model.representation import Representation
from dicomnode.ports.audit import representations
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage

CHUNK = 1024 * 1024
_FIRST_HEAD = 32 * 1024
_LONGEST_HEAD = 64 * 1024 * 1024
_LARGEST_FRAME = 1024 * 1024 * 1024
_FRESH_S = 2.0
_LOCATIONS = 10_000
_FORMS_AT_ONCE = 16
_INDICES = 2_000
_INDEXED_FRAMES = 4_000_000

_PAGE = 500

T = TypeVar("T")


class TooMany(BadRequest):
    """More objects fit than are given at once."""


class Chosen(msgspec.Struct, frozen=True):
    """Which objects are wanted: those with one of the UIDs of every level that names any (PS3.4 C.4.2.1.4)."""

    tenant: str
    patient_ids: tuple[str, ...] = ()
    study_uids: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()
    sop_uids: tuple[str, ...] = ()

    def matches(self) -> dict[str, Match]:
        """Return the same as a query."""
        named = {
            "PatientID": self.patient_ids,
            "StudyInstanceUID": self.study_uids,
            "SeriesInstanceUID": self.series_uids,
            "SOPInstanceUID": self.sop_uids,
        }
        return {keyword: OneOf(uids) for keyword, uids in named.items() if uids}


class Retrieve:
    """Give back objects, frames and values. `caught_up` waits for the index.

    An instance's location is remembered for two seconds: after another object took its place, the earlier one, which
    stays kept under its own key, may be served that long. Where the frames of a key lie never changes.
    """

    def __init__(self, storage: Storage, database: Database, caught_up: Callable[[], Awaitable[None]]) -> None:
        self._storage = storage
        self._database = database
        self._caught_up = caught_up
        self._locations: OrderedDict[tuple[str, str, str, str], tuple[float, Location]] = OrderedDict()
        self._forms: OrderedDict[str, tuple[float, tuple[Representation, ...]]] = OrderedDict()
        self._indices: OrderedDict[str, FrameIndex] = OrderedDict()
        self._indexed_frames = 0
        self._indexing: dict[str, asyncio.Task[FrameIndex]] = {}

    async def locate(self, tenant: str, study_uid: str, series_uid: str = "", sop_uid: str = "") -> Sequence[Location]:
        """Return where each instance of the study, series or instance is kept. Raises: NotFound, Unavailable."""
        await self._caught_up()
        found = await self._database.locate(tenant, study_uid, series_uid, sop_uid)
        if not found:
            raise NotFound(f"there is no such {'instance' if sop_uid else 'series' if series_uid else 'study'}")
        return found

    async def locate_one(self, tenant: str, study_uid: str, series_uid: str, sop_uid: str) -> Location:
        """Return where one instance is kept, from memory for two seconds. Raises: NotFound, Unavailable."""
        name = (tenant, study_uid, series_uid, sop_uid)
        now = time.monotonic()
        known = self._locations.get(name)
        if known is not None and now < known[0]:
            return known[1]
        (location, *_) = await self.locate(*name)
        self._locations[name] = (now + _FRESH_S, location)
        self._locations.move_to_end(name)
        if len(self._locations) > _LOCATIONS:
            self._locations.popitem(last=False)
        return location

    async def suited(self, locations: Sequence[Location], takes: Callable[[str], bool]) -> Sequence[Location]:
        """Return `locations`, and instead of each whose transfer syntax is not taken that of a form which is.

        Where there is no such form the original stays. Nothing is asked of the storage while all are taken.
        Raises: Unavailable.
        """
        if all(map(takes, {location.transfer_syntax_uid for location in locations})):
            return locations
        suited: list[Location] = []
        for start in range(0, len(locations), _FORMS_AT_ONCE):
            batch = locations[start : start + _FORMS_AT_ONCE]
            suited.extend(await asyncio.gather(*(self._suited(location, takes) for location in batch)))
        return suited

    async def _suited(self, location: Location, takes: Callable[[str], bool]) -> Location:
        if takes(location.transfer_syntax_uid):
            return location
        for form in await self._forms_of(location.key):
            if takes(form.transfer_syntax_uid):
                return msgspec.structs.replace(
                    location,
                    key=form.key,
                    transfer_syntax_uid=form.transfer_syntax_uid,
                    size=form.size,
                    data_set_offset=form.data_set_offset,
                    sha256=form.sha256,
                )
        return location

    async def _forms_of(self, key: str) -> tuple[Representation, ...]:
        """Return the whole forms of the object under `key`, from memory for two seconds. Raises: Unavailable."""
        now = time.monotonic()
        known = self._forms.get(key)
        if known is not None and now < known[0]:
            return known[1]
        forms = await representations(self._storage, key)
        self._forms[key] = (now + _FRESH_S, forms)
        self._forms.move_to_end(key)
        if len(self._forms) > _LOCATIONS:
            self._forms.popitem(last=False)
        return forms

    async def select(self, chosen: Chosen, most: int) -> Sequence[Location]:
        """Return where each instance that is wanted is kept, study by study in order; none is no error.

        Few questions go to the index, however many objects there are.

        Raises: TooMany, more than `most` would be found; BadRequest, nothing is named; Unavailable.
        """
        if not chosen.matches():
            raise BadRequest("no patient, study, series or instance is named")
        await self._caught_up()
        sop_uid = chosen.sop_uids[0] if len(chosen.sop_uids) == 1 else ""
        series_uids, sop_uids = frozenset(chosen.series_uids), frozenset(chosen.sop_uids)
        found: list[Location] = []
        for study_uid, series_uid in await self._holders(chosen):
            located = await self._database.locate(chosen.tenant, study_uid, series_uid, sop_uid)
            found.extend(
                each
                for each in located
                if (not series_uids or each.series_uid in series_uids) and (not sop_uids or each.sop_uid in sop_uids)
            )
            if len(found) > most:
                raise TooMany(f"more than {most} objects; ask for less")
        return found

    async def _holders(self, chosen: Chosen) -> Sequence[tuple[str, str]]:
        """Return the studies, or the studies with a series, in which what is wanted lies."""
        if len(chosen.study_uids) == 1 and len(chosen.series_uids) < 2 and not chosen.patient_ids:
            return [(chosen.study_uids[0], chosen.series_uids[0] if chosen.series_uids else "")]
        level = Level.INSTANCE if chosen.sop_uids else Level.SERIES if chosen.series_uids else Level.STUDY
        holders: dict[tuple[str, str], None] = {}
        after = ""
        while True:
            query = Query(chosen.tenant, level, chosen.matches(), _PAGE, after)
            rows = await self._database.find(query)
            for row in rows:
                holders[_uid(row.study, "0020000D"), _uid(row.series, "0020000E")] = None
            if len(rows) < _PAGE:
                return list(holders)
            after = rows[-1].cursor

    async def data_set(self, location: Location) -> tuple[bytes, AsyncGenerator[bytes, None] | None]:
        """Return the start of the data set as it is kept, and what is left of it, None where that was all.

        The rest comes in pieces up to 1 MiB, one read while the one before is used; close it when it is not read to
        its end. A deflated data set is padded to an even length, as it must be on its way (PS3.5 A.5).

        Raises: NotFound, Corrupt, Unavailable; the rest too.
        """
        size = location.size - location.data_set_offset
        padding = b"\0" if size & 1 and transfer_syntax.of(location.transfer_syntax_uid).deflated else b""
        first = await self._piece(location, location.data_set_offset)
        if len(first) == size:
            return first + padding, None
        return first, self._rest(location, location.data_set_offset + len(first), padding)

    async def _rest(self, location: Location, offset: int, padding: bytes) -> AsyncGenerator[bytes, None]:
        ahead = asyncio.create_task(self._piece(location, offset))
        try:
            while offset < location.size:
                piece = await ahead
                offset += len(piece)
                ahead = asyncio.create_task(self._piece(location, offset))
                yield piece
            if padding:
                yield padding
        finally:
            ahead.cancel()
            await asyncio.wait([ahead])

    async def _piece(self, location: Location, offset: int) -> bytes:
        """Return up to a MiB from `offset`; nothing at the end. Raises: Corrupt."""
        wanted = min(CHUNK, location.size - offset)
        if wanted <= 0:
            return b""
        piece = await self._storage.read(location.key, offset, wanted)
        if len(piece) < wanted:
            raise _cut_short(location)
        return piece

    async def chunks(self, location: Location, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the object as it is kept, file meta information included, or a range of it, in pieces up to 1 MiB.

        Raises: Corrupt, the object is shorter than it was; Unavailable.
        """
        end = location.size if length is None else min(location.size, offset + length)
        while offset < end:
            piece = await self._storage.read(location.key, offset, min(CHUNK, end - offset))
            if not piece:
                raise _cut_short(location)
            offset += len(piece)
            yield piece

    async def frame_index(self, location: Location) -> FrameIndex:
        """Return where the frames of the object lie; made once however many ask at a time.

        Raises: NotFound, it has no pixel data; BadInstance, they cannot be as it says; Unavailable.
        """
        known = self._indices.get(location.key)
        if known is not None:
            return known
        task = self._indexing.get(location.key)
        if task is None:
            task = self._indexing[location.key] = asyncio.create_task(self._index(location))
            task.add_done_callback(lambda _: self._indexing.pop(location.key, None))
        return await asyncio.shield(task)

    async def frame(self, location: Location, index: FrameIndex, number: int) -> bytes | memoryview:
        """Return frame `number` (from 1), native words little endian. Raises: NotFound, BadInstance, Unavailable."""
        offset, length = index.range_of(number)
        if length > _LARGEST_FRAME:
            raise BadInstance(f"a frame is longer than {_LARGEST_FRAME} bytes")
        return index.frame(number, await self._read(location, offset, length))

    async def value(self, location: Location, path: str) -> tuple[Value, str]:
        """Return where the value at a bulk data `path` lies within the data set, and the object's transfer syntax.

        Raises: BadRequest, no path; NotFound, no such value; BadInstance, Unavailable.
        """
        tags = parse_bulk_path(path)
        syntax = transfer_syntax.of(location.transfer_syntax_uid)
        head = _FIRST_HEAD
        while True:
            data_set, complete = await self.head(location, head)
            found = await asyncio.to_thread(find_value, data_set, syntax, tags, complete=complete)
            if found is not None:
                return found, syntax.uid
            head = _longer(head, location)

    async def value_chunks(self, location: Location, value: Value) -> AsyncIterator[bytes]:
        """Yield the bytes of a value, words little endian, in pieces up to 1 MiB."""
        for offset in range(0, value.length, CHUNK):
            piece = await self._read(location, value.offset + offset, min(CHUNK, value.length - offset))
            yield value.little_endian(piece)

    async def _read(self, location: Location, offset: int, length: int) -> bytes:
        """Return a range of the data set, inflated where it is deflated. Raises: Corrupt."""
        if transfer_syntax.of(location.transfer_syntax_uid).deflated:
            data_set, _ = await self.head(location, _LONGEST_HEAD)
            return data_set[offset : offset + length]
        length = min(length, location.size - location.data_set_offset - offset)
        piece = await self._storage.read(location.key, location.data_set_offset + offset, length)
        if len(piece) < length:
            raise _cut_short(location)
        return piece

    async def head(self, location: Location, length: int) -> tuple[bytes, bool]:
        """Return at least `length` bytes from the start of the data set, if it has them, and whether that is all.

        A deflated data set comes inflated. Raises: NotFound, BadInstance, Corrupt, Unavailable.
        """
        size = location.size - location.data_set_offset
        if transfer_syntax.of(location.transfer_syntax_uid).deflated:
            if size > _LONGEST_HEAD:
                raise BadInstance(f"the deflated data set is longer than {_LONGEST_HEAD} bytes")
            deflated = await self._storage.read(location.key, location.data_set_offset)
            return await asyncio.to_thread(_inflate, deflated)
        wanted = min(length, size)
        head = await self._storage.read(location.key, location.data_set_offset, wanted)
        if len(head) < wanted:
            raise _cut_short(location)
        return head, length >= size

    async def _index(self, location: Location) -> FrameIndex:
        syntax = transfer_syntax.of(location.transfer_syntax_uid)
        head, size = await self._pixel_head(location, syntax)
        index = await self._drive(location, index_frames(head, size))
        self._remember(location.key, index)
        return index

    async def _pixel_head(self, location: Location, syntax: TransferSyntax) -> tuple[PixelHead, int]:
        length = _FIRST_HEAD
        while True:
            data_set, complete = await self.head(location, length)
            if length > _FIRST_HEAD:
                found = await asyncio.to_thread(read_pixel_head, data_set, syntax, complete)
            else:
                found = read_pixel_head(data_set, syntax, complete)
            if found is not None:
                return found, len(data_set) if syntax.deflated else location.size - location.data_set_offset
            length = _longer(length, location)

    async def _drive(self, location: Location, wanted: Generator[tuple[int, int], bytes, T]) -> T:
        try:
            offset, length = next(wanted)
            while True:
                offset, length = wanted.send(await self._read(location, offset, length))
        except StopIteration as done:
            found: T = done.value
            return found

    def _remember(self, key: str, index: FrameIndex) -> None:
        self._indices[key] = index
        self._indexed_frames += len(index.starts)
        while len(self._indices) > _INDICES or (self._indexed_frames > _INDEXED_FRAMES and len(self._indices) > 1):
            _, forgotten = self._indices.popitem(last=False)
            self._indexed_frames -= len(forgotten.starts)


def _cut_short(location: Location) -> Corrupt:
    return Corrupt("storage", f"an object is shorter than the {location.size} bytes that were kept")


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _uid(fragment: str, tag: str) -> str:
    return str((_decode(fragment).get(tag, {}).get("Value") or [""])[0]) if fragment != "{}" else ""


def _inflate(deflated: bytes) -> tuple[bytes, bool]:
    head, whole = b"", False
    for head, whole in heads(deflated):  # noqa: B007 -- the last one is the longest
        pass
    if not whole:
        raise BadInstance("the deflated data set is cut short")
    return head, True


def _longer(length: int, location: Location) -> int:
    """Return how long a head to try next. Raises: BadInstance when it would be unreasonable."""
    if length >= _LONGEST_HEAD or length >= location.size:
        raise BadInstance(f"the object's attributes do not end within {_LONGEST_HEAD} bytes")
    return min(length * 8, _LONGEST_HEAD)
