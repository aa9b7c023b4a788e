"""What a client does not take as it was received it gets in a form that is kept besides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dicomnode.model.entry import Policy
from dicomnode.model.representation import original_of
from dicomnode.ports.storage import StoredObject
from dicomnode.services import retrieve as module
from dicomnode.services.sweep import Sweep
from tests.converting import JPEG_2000, PLAIN, VIEWERS, converted, jpeg_2000, pixels_of, taken_in
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


def _plain(uid: str) -> bool:
    return uid == PLAIN


async def test_the_form_that_is_taken_is_given(rooms: Rooms, tmp_path: Path) -> None:
    study = "1.2.3"
    meta, _ = await converted(rooms, tmp_path, StudyInstanceUID=study, InstanceNumber="1")
    other = await taken_in(rooms, jpeg_2000(StudyInstanceUID=study, InstanceNumber="2"))
    locations = await rooms.retrieve.locate("default", study)
    assert {location.key for location in locations} == {meta.file_path, other.file_path}
    suited = {location.sop_uid: location for location in await rooms.retrieve.suited(locations, _plain)}
    form = suited[meta.sop_uid]
    assert original_of(form.key) == meta.file_path
    assert form.transfer_syntax_uid == PLAIN
    index = await rooms.retrieve.frame_index(form)
    assert bytes(await rooms.retrieve.frame(form, index, 1)) == pixels_of()
    assert suited[other.sop_uid].key == other.file_path, "there is no form of it: who asked must be told"


async def test_what_is_taken_as_it_is_asks_nothing_of_the_storage(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta, _ = await converted(rooms, tmp_path)
    locations = await rooms.retrieve.locate("default", meta.study_uid)
    asked = 0
    listed = rooms.storage.list

    def counted(prefix: str = "") -> AsyncIterator[StoredObject]:
        nonlocal asked
        asked += 1
        return listed(prefix)

    monkeypatch.setattr(rooms.storage, "list", counted)
    assert await rooms.retrieve.suited(locations, lambda uid: uid == JPEG_2000) is locations
    assert asked == 0
    for _ in range(3):
        await rooms.retrieve.suited(locations, _plain)
    assert asked == 1
    monkeypatch.setattr(module, "_LOCATIONS", 0)
    rooms.retrieve._forms.clear()
    await rooms.retrieve.suited(locations, _plain)
    assert not rooms.retrieve._forms


async def test_a_sweep_makes_no_objects_of_forms(tmp_path: Path) -> None:
    async with open_rooms(tmp_path, policy=Policy.KEEP_FIRST) as rooms:
        meta, _ = await converted(rooms, tmp_path)
        swept = await Sweep(rooms.storage, rooms.broker, rooms.database, VIEWERS).run()
        assert (swept.objects, swept.published, swept.incomplete) == (1, 0, ())
        await rooms.retrieve.locate("default", meta.study_uid)
        assert [location.key async for location in rooms.database.keys("default/")] == [meta.file_path]
