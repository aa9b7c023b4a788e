from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicomnode.dicom import transfer_syntax
from dicomnode.errors import BadInstance, BadRequest, Corrupt, NotFound
from dicomnode.model.entry import Policy
from dicomnode.model.query import Location
from dicomnode.services import retrieve as module
from dicomnode.services.retrieve import Chosen, TooMany
from tests.corpus import data_set_of, make, part10
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms

STUDY, SERIES, SOP = "1.2", "1.2.1", "1.2.1.1"
NAMES = ("default", STUDY, SERIES, SOP)
UIDS = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": SOP}


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


async def test_what_was_acknowledged_can_be_had_at_once(rooms: Rooms) -> None:
    stored = await rooms.take_in(make(**UIDS))
    (location,) = await rooms.retrieve.locate("default", STUDY)
    assert (location.key, location.size) == (stored.key, stored.size)
    pieces = [piece async for piece in rooms.retrieve.chunks(location)]
    assert b"".join(pieces) == await rooms.storage.read(stored.key)
    pieces = [piece async for piece in rooms.retrieve.chunks(location, 10, 20)]
    assert b"".join(pieces) == (await rooms.storage.read(stored.key))[10:30]


@pytest.mark.parametrize("names", [("9",), (STUDY, "9"), (STUDY, SERIES, "9"), ("9", SERIES, SOP)])
async def test_what_is_not_there(names: tuple[str, ...], rooms: Rooms) -> None:
    await rooms.take_in(make(**UIDS))
    with pytest.raises(NotFound):
        await rooms.retrieve.locate("default", *names)
    with pytest.raises(NotFound):
        await rooms.retrieve.locate("other", STUDY)


async def test_pieces_are_bounded(rooms: Rooms) -> None:
    await rooms.take_in(make(**UIDS, Rows=1250, Columns=1000, PixelData=bytes(2_500_000)))
    location = await rooms.retrieve.locate_one(*NAMES)
    assert max([len(piece) async for piece in rooms.retrieve.chunks(location)]) == module.CHUNK


async def test_a_location_is_remembered_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_rooms(tmp_path, policy=Policy.REPLACE) as rooms:
        first = await rooms.take_in(make(**UIDS))
        assert (await rooms.retrieve.locate_one(*NAMES)).key == first.key
        second = await rooms.take_in(make(**UIDS, PatientComments="other"))
        # Within two seconds the earlier object, which is still kept whole, may be given; never a mixture.
        remembered = await rooms.retrieve.locate_one(*NAMES)
        assert b"".join([p async for p in rooms.retrieve.chunks(remembered)]) == await rooms.storage.read(
            remembered.key
        )
        monkeypatch.setattr(module, "_FRESH_S", -1.0)
        rooms.retrieve._locations.clear()
        assert (await rooms.retrieve.locate_one(*NAMES)).key == second.key


async def test_frames_are_indexed_once_however_many_ask(rooms: Rooms) -> None:
    await rooms.take_in(make(**UIDS, NumberOfFrames=3, PixelData=bytes(range(256)) + bytes(128)))
    location = await rooms.retrieve.locate_one(*NAMES)
    indices = await asyncio.gather(*(rooms.retrieve.frame_index(location) for _ in range(50)))
    assert all(index is indices[0] for index in indices)
    assert not rooms.retrieve._indexing
    assert bytes(await rooms.retrieve.frame(location, indices[0], 2)) == bytes(range(128, 256))
    with pytest.raises(NotFound):
        await rooms.retrieve.frame(location, indices[0], 4)


async def test_memory_for_indices_is_bounded(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INDICES", 2)
    monkeypatch.setattr(module, "_LOCATIONS", 2)
    for number in range(4):
        sop = f"{SOP}.{number}"
        await rooms.take_in(make(**{**UIDS, "SOPInstanceUID": sop}))
        await rooms.retrieve.frame_index(await rooms.retrieve.locate_one("default", STUDY, SERIES, sop))
    assert len(rooms.retrieve._indices) == len(rooms.retrieve._locations) == 2


async def test_pixel_data_behind_a_long_header(rooms: Rooms) -> None:
    await rooms.take_in(make(**UIDS, EncapsulatedDocument=bytes(600_000)))
    location = await rooms.retrieve.locate_one(*NAMES)
    index = await rooms.retrieve.frame_index(location)
    assert bytes(await rooms.retrieve.frame(location, index, 1)) == bytes(range(128))
    value, _ = await rooms.retrieve.value(location, "00420011")
    assert sum([len(piece) async for piece in rooms.retrieve.value_chunks(location, value)]) == 600_000


async def test_deflated_objects_are_inflated(rooms: Rooms) -> None:
    ds = make(**UIDS, NumberOfFrames=2, PixelData=bytes(range(256)))
    plain = data_set_of(part10(ds, ExplicitVRLittleEndian))
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    await rooms.take_in_bytes(squeezer.compress(plain) + squeezer.flush(), DeflatedExplicitVRLittleEndian)
    location = await rooms.retrieve.locate_one(*NAMES)
    assert transfer_syntax.of(location.transfer_syntax_uid).deflated
    index = await rooms.retrieve.frame_index(location)
    assert index.transfer_syntax_uid == ExplicitVRLittleEndian
    assert bytes(await rooms.retrieve.frame(location, index, 2)) == bytes(range(128, 256))


async def test_a_bomb_is_not_inflated(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = data_set_of(part10(make(**UIDS, Rows=32768, Columns=2048, PixelData=bytes(134_217_728))))
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = squeezer.compress(plain) + squeezer.flush()
    assert len(deflated) < 1_000_000
    await rooms.take_in_bytes(deflated, DeflatedExplicitVRLittleEndian)
    location = await rooms.retrieve.locate_one(*NAMES)
    with pytest.raises(BadInstance, match="inflated"):
        await rooms.retrieve.frame_index(location)


async def test_no_pixel_data(rooms: Rooms) -> None:
    ds = make(**UIDS)
    del ds.PixelData
    await rooms.take_in(ds)
    location = await rooms.retrieve.locate_one(*NAMES)
    with pytest.raises(NotFound, match="no pixel data"):
        await rooms.retrieve.frame_index(location)
    with pytest.raises(NotFound, match="no such value"):
        await rooms.retrieve.value(location, "7FE00010")
    for path in ("", "7FE0001", "../x", "00080018/0/00080018", "00080018/1"):
        with pytest.raises(BadRequest):
            await rooms.retrieve.value(location, path)


async def test_values_before_and_behind_the_pixel_data(rooms: Rooms) -> None:
    ds = make(**UIDS)
    ds.add_new(0xFFFCFFFC, "OB", b"behind")
    await rooms.take_in(ds)
    location = await rooms.retrieve.locate_one(*NAMES)
    for path, expected in (("FFFCFFFC", b"behind"), ("00100010", b"Doe^Jane"), ("7FE00010", bytes(range(128)))):
        value, _ = await rooms.retrieve.value(location, path)
        assert b"".join([piece async for piece in rooms.retrieve.value_chunks(location, value)]) == expected


async def test_an_object_that_lost_its_end_is_told(rooms: Rooms) -> None:
    stored = await rooms.take_in(make(**UIDS))
    location = await rooms.retrieve.locate_one(*NAMES)
    index = await rooms.retrieve.frame_index(location)
    kept = await rooms.storage.read(stored.key)
    await rooms.storage.delete((stored.key,))
    await rooms.storage.put(stored.key, (kept[:-50],))
    with pytest.raises(Corrupt, match="shorter"):
        [piece async for piece in rooms.retrieve.chunks(location)]
    with pytest.raises(Corrupt, match="shorter"):
        await rooms.retrieve.frame(location, index, 1)


async def test_what_is_chosen_is_found_with_few_questions(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    for study in range(3):
        for series in range(2):
            for number in range(3):
                await rooms.take_in(
                    make(
                        PatientID=f"P{study % 2}",
                        StudyInstanceUID=f"1.{study}",
                        SeriesInstanceUID=f"1.{study}.{series}",
                        SOPInstanceUID=f"1.{study}.{series}.{number}",
                        SeriesNumber=series,
                        InstanceNumber=number,
                    )
                )
    asked = 0
    locate = rooms.database.locate

    async def counted(*names: str) -> Sequence[Location]:
        nonlocal asked
        asked += 1
        return await locate(*names)

    monkeypatch.setattr(rooms.database, "locate", counted)
    for chosen, count, questions in (
        (Chosen("default", ("P0",)), 12, 2),
        (Chosen("default", study_uids=("1.1",)), 6, 1),
        (Chosen("default", study_uids=("1.1", "1.2", "7")), 12, 2),
        (Chosen("default", ("P0",), ("1.1",)), 0, 0),
        (Chosen("default", (), ("1.1",), ("1.1.1",)), 3, 1),
        (Chosen("default", (), ("1.1",), ("1.1.1", "1.1.0", "1.2.0")), 6, 2),
        (Chosen("default", (), ("1.1",), ("1.1.1",), ("1.1.1.2", "1.1.1.0", "1.1.0.0")), 2, 1),
        (Chosen("default", sop_uids=("1.1.1.2", "1.1.1.0", "1.2.0.0")), 3, 2),
        (Chosen("other", study_uids=("1.1",)), 0, 1),
    ):
        asked = 0
        found = await rooms.retrieve.select(chosen, 100)
        assert (len(found), asked) == (count, questions), chosen
        assert len({location.sop_uid for location in found}) == count
    ordered = await rooms.retrieve.select(Chosen("default", study_uids=("1.1",)), 6)
    assert [location.sop_uid for location in ordered] == sorted(location.sop_uid for location in ordered)
    with pytest.raises(TooMany):
        await rooms.retrieve.select(Chosen("default", ("P0",)), 11)
    with pytest.raises(BadRequest):
        await rooms.retrieve.select(Chosen("default"), 11)


@pytest.mark.parametrize("size", [10, module.CHUNK - 2000, module.CHUNK * 2, 2_500_000])
async def test_a_data_set_comes_whole(size: int, rooms: Rooms) -> None:
    stored = await rooms.take_in(make(**UIDS, PixelData=bytes(size)))
    location = await rooms.retrieve.locate_one(*NAMES)
    first, rest = await rooms.retrieve.data_set(location)
    pieces = [first, *([piece async for piece in rest] if rest is not None else [])]
    assert b"".join(pieces) == (await rooms.storage.read(stored.key))[location.data_set_offset :]
    assert max(map(len, pieces)) <= module.CHUNK
    assert (rest is None) == (len(first) == location.size - location.data_set_offset)
    if rest is not None:
        _, rest = await rooms.retrieve.data_set(location)
        assert rest is not None
        await anext(rest)
        await rest.aclose()  # what was read ahead is let go


async def test_an_odd_deflated_data_set_is_padded(rooms: Rooms) -> None:
    for comment in "abcdefgh":
        uid = f"{SOP}.{ord(comment)}"
        await rooms.take_in(
            make(**{**UIDS, "SOPInstanceUID": uid}, PatientComments=comment * ord(comment)),
            DeflatedExplicitVRLittleEndian,
        )
        location = await rooms.retrieve.locate_one("default", STUDY, SERIES, uid)
        first, rest = await rooms.retrieve.data_set(location)
        assert rest is None
        kept = (await rooms.storage.read(location.key))[location.data_set_offset :]
        assert first == kept + b"\0" * (len(kept) & 1)


async def test_a_data_set_that_was_cut(tmp_path: Path) -> None:
    async with open_rooms(tmp_path, EMBEDDED) as rooms:
        stored = await rooms.take_in(make(**UIDS, PixelData=bytes(2_500_000)))
        os.truncate(tmp_path / "storage" / stored.key, 1_500_000)
        location = await rooms.retrieve.locate_one(*NAMES)
        _, rest = await rooms.retrieve.data_set(location)
        assert rest is not None
        with pytest.raises(Corrupt):
            async for _ in rest:
                pass
