"""C-GET and C-MOVE to peers that do not take an object as it was received: a form that is kept goes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomnode.model.messages import DicomObjectMeta
from tests.converting import PLAIN, Here, converted, jpeg_2000, pixels_of, taken_in
from tests.roles.storescp.doors import Asking, get, identifier, move, open_door
from tests.roles.storescp.test_retrieval import CT, Taker, listening
from tests.rooms import EMBEDDED, Rooms, open_rooms

JPEG_2000_ONLY = [(CTImageStorage, "1.2.840.10008.1.2.4.90")]


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, EMBEDDED) as rooms:
        yield rooms


async def test_a_form_that_is_kept_is_not_made_again(rooms: Rooms, tmp_path: Path) -> None:
    more = {"StudyInstanceUID": "1.2.3", "SOPClassUID": CTImageStorage}
    meta, _ = await converted(rooms, tmp_path, **more)
    other = await taken_in(rooms, jpeg_2000(**more))
    form, *_ = await rooms.retrieve.suited(
        await rooms.retrieve.locate("default", *_names(meta)), lambda uid: uid == PLAIN
    )
    kept = (await rooms.storage.read(form.key))[form.data_set_offset :]
    asked = identifier("STUDY", StudyInstanceUID="1.2.3")
    transcoder, got, moved = Here(tmp_path), Taker(), Taker()
    with listening(moved, ExplicitVRLittleEndian) as peer:
        async with open_door(rooms, peers={"taker": peer}, transcoder=transcoder) as role:
            for taker, told in (
                (got, (await get(role, asked, Asking(storage=CT), got))[-1]),
                (moved, (await move(role, asked, "TAKER"))[-1]),
            ):
                assert (told.status, told.counts) == (0, (None, 2, 0, 0))
                assert taker.data[meta.sop_uid] == kept
                assert pixels_of() in taker.data[other.sop_uid]
    assert transcoder.made == 2, "of the object that is not kept so: once for C-GET, once for C-MOVE"


async def test_who_takes_the_original_gets_it(rooms: Rooms, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path, SOPClassUID=CTImageStorage)
    got = Taker()
    async with open_door(rooms, transcoder=Here(tmp_path)) as role:
        asked = identifier("STUDY", StudyInstanceUID=meta.study_uid)
        assert (await get(role, asked, Asking(storage=JPEG_2000_ONLY), got))[-1].status == 0
    assert got.data[meta.sop_uid] == (await rooms.storage.read(meta.file_path))[meta.data_set_offset :]


def _names(meta: DicomObjectMeta) -> tuple[str, str, str]:
    return meta.study_uid, meta.series_uid, meta.sop_uid
