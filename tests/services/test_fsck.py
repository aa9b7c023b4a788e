from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from dicomnode.model.entry import Entry, Policy
from dicomnode.model.instance import Fragments
from dicomnode.model.query import Location
from dicomnode.model.representation import Representation, form_key
from dicomnode.services.fsck import Fsck
from dicomnode_memory.database import MemoryDatabase
from dicomnode_memory.storage import MemoryStorage


def _entry(key: str, data: bytes) -> Entry:
    return Entry(
        tenant="default",
        patient_id="P",
        study_uid="1.2",
        series_uid="1.3",
        sop_uid=key,
        sop_class_uid="1.4",
        transfer_syntax_uid="1.2.840.10008.1.2",
        key=key,
        size=len(data),
        data_set_offset=2,
        sha256=hashlib.sha256(data[2:]).hexdigest(),
        number_of_frames=1,
        received="2026-01-02T03:04:05.678+00:00",
        fragments=Fragments(),
        columns={"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": key},
    )


async def test_each_difference_is_named(tmp_path: Path) -> None:
    storage = MemoryStorage(MemoryStorage.Options(), tmp_path)
    database = MemoryDatabase(MemoryDatabase.Options(), tmp_path)
    held = {
        "d/s/e/whole": b"..whole",
        "d/s/e/short": b"..short",
        "d/s/e/flipped": b"..flipped",
        "d/s/e/lost": b"..lost",
    }
    await database.index([_entry(key, data) for key, data in held.items()], Policy.KEEP_FIRST)
    for key, data in (held | {"d/s/e/short": b"..sh", "d/s/e/flipped": b"..flopped", "d/s/e/extra": b"?"}).items():
        if key != "d/s/e/lost":
            await storage.put(key, (data,))
    fsck = Fsck(storage, database)
    quick, thorough = await fsck.run(digests=False), await fsck.run(digests=True)
    assert (quick.missing, quick.damaged, quick.unknown) == (("d/s/e/lost",), ("d/s/e/short",), ("d/s/e/extra",))
    assert set(thorough.damaged) == {"d/s/e/short", "d/s/e/flipped"}
    assert thorough.objects == 4
    assert not thorough.sound


class Asked(MemoryDatabase):
    """A database that counts how often it is asked for what it keeps."""

    times = 0

    def keys(self, prefix: str = "") -> AsyncIterator[Location]:
        self.times += 1
        return super().keys(prefix)


async def test_the_database_is_walked_once_and_studies_apart_are_compared(tmp_path: Path) -> None:
    storage, database = MemoryStorage(MemoryStorage.Options(), tmp_path), Asked(Asked.Options(), tmp_path)
    kept = [f"d/20260102/{study}/1.3/{number}" for study in ("1.2", "1.2.3", "1.20") for number in (1, 2)]
    await database.index([_entry(key, b"..data") for key in kept], Policy.KEEP_FIRST)
    for key in (*kept[1:], "d/20260102/1.2/1.3/9", "d/20260102/1/1.3/1", "d/20260103/1.2/1.3/1"):
        await storage.put(key, (b"..data",))
    told: list[None] = []
    found = await Fsck(storage, database).run(digests=True, told=lambda: told.append(None))
    assert (found.objects, len(told), found.missing, found.damaged) == (6, 6, (kept[0],), ())
    assert set(found.unknown) == {"d/20260102/1.2/1.3/9", "d/20260102/1/1.3/1", "d/20260103/1.2/1.3/1"}
    assert database.times == 1


async def test_nothing_is_sound(tmp_path: Path) -> None:
    storage = MemoryStorage(MemoryStorage.Options(), tmp_path)
    database = MemoryDatabase(MemoryDatabase.Options(), tmp_path)
    assert (await Fsck(storage, database).run(digests=True)).sound


async def test_forms_in_other_transfer_syntaxes_are_no_objects(tmp_path: Path) -> None:
    storage = MemoryStorage(MemoryStorage.Options(), tmp_path)
    database = MemoryDatabase(MemoryDatabase.Options(), tmp_path)
    keys = [f"d/20260102/1.{number}/1.3/1.4-{number:020}.dcm" for number in range(6)]
    indexed, unknown, gone, lost, flipped, unfinished = keys
    for key in (indexed, lost, flipped, unfinished):
        await database.index([_entry(key, b"..data")], Policy.KEEP_FIRST)
    for key in (indexed, unknown, flipped, unfinished):
        await storage.put(key, (b"..data",))
    forms = {key: _form(key, b"..form") for key in keys}
    for key, form in forms.items():
        await storage.put(form.key, (b"..flop" if key == flipped else b"..for" if key == unfinished else b"..form",))
        await storage.put(form.seal, (b"",))
    quick, thorough = [await Fsck(storage, database).run(digests=each) for each in (False, True)]
    assert (quick.objects, quick.missing, quick.unknown) == (4, (lost,), (unknown,))
    assert quick.representations == 3  # of those that the index knows
    assert set(quick.orphans) == {each for key in (gone, unfinished) for each in (forms[key].key, forms[key].seal)}
    assert (quick.damaged, thorough.damaged) == ((), (forms[flipped].key,))


async def test_an_orphan_harms_nobody(tmp_path: Path) -> None:
    storage = MemoryStorage(MemoryStorage.Options(), tmp_path)
    database = MemoryDatabase(MemoryDatabase.Options(), tmp_path)
    kept, gone = (f"d/20260102/1.2/1.3/1.4-{number:020}.dcm" for number in range(2))
    await database.index([_entry(kept, b"..data")], Policy.KEEP_FIRST)
    await storage.put(kept, (b"..data",))
    form = _form(gone, b"..form")
    await storage.put(form.key, (b"..form",))
    await storage.put(form.seal, (b"",))
    checked = await Fsck(storage, database).run(digests=True)
    assert set(checked.orphans) == {form.key, form.seal}
    assert checked.sound


def _form(original: str, data: bytes) -> Representation:
    key = form_key(original, "1.2.840.10008.1.2.1", "1" * 20)
    return Representation(key, "1.2.840.10008.1.2.1", 2, len(data), hashlib.sha256(data[2:]).hexdigest())
