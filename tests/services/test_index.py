from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.dicom.header import read_header
from dicomnode.errors import Full, Unavailable
from dicomnode.model.entry import Fate, Policy
from dicomnode.model.instance import Arrival, Door
from dicomnode.model.messages import DicomObjectMeta, object_meta
from dicomnode.model.query import Location
from dicomnode.ports.safekeeping import Received
from dicomnode.services.index import Index
from dicomnode_memory.database import MemoryDatabase
from dicomnode_memory.storage import MemoryStorage
from tests.corpus import data_set_of, make, part10

ARRIVAL = Arrival("default", Door.STOW, str(ExplicitVRLittleEndian))


def _meta(data_set: bytes, key: str) -> DicomObjectMeta:
    header = read_header(data_set, ExplicitVRLittleEndian)
    assert header is not None
    return object_meta(ARRIVAL, header, key, 0, len(data_set), hashlib.sha256(data_set).hexdigest())


class House:
    def __init__(self, tmp_path: Path, policy: Policy = Policy.KEEP_FIRST) -> None:
        self.storage: MemoryStorage = MemoryStorage(MemoryStorage.Options(), tmp_path)
        self.database = MemoryDatabase(MemoryDatabase.Options(), tmp_path)
        self.index = Index(self.database, self.storage, policy)

    async def kept(self, data_set: bytes, key: str) -> Received:
        await self.storage.put(key, (data_set,))
        return Received(_meta(data_set, key))

    async def keys(self) -> set[str]:
        return {stored.key async for stored in self.storage.list()}


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_indexed_once_however_often_delivered(house: House) -> None:
    received = await house.kept(data_set_of(part10(make())), "a/1.dcm")
    assert await house.index.take_in([received]) == [Fate.NEW]
    assert await house.index.take_in([received, received]) == [Fate.AGAIN, Fate.AGAIN]
    assert (await house.database.counts()).instances == 1
    assert await house.keys() == {"a/1.dcm"}


async def test_an_equal_duplicate_loses_its_file_and_only_that(house: House) -> None:
    data_set = data_set_of(part10(make()))
    first, second = await house.kept(data_set, "a/1.dcm"), await house.kept(data_set, "a/2.dcm")
    assert await house.index.take_in([first, second]) == [Fate.NEW, Fate.DUPLICATE]
    assert await house.keys() == {"a/1.dcm"}
    assert await house.index.take_in([second]) == [Fate.DUPLICATE]
    assert await house.keys() == {"a/1.dcm"}


async def test_one_message_twice_in_a_batch_keeps_the_file(house: House) -> None:
    received = await house.kept(data_set_of(part10(make())), "a/1.dcm")
    assert await house.index.take_in([received, received]) == [Fate.NEW, Fate.AGAIN]
    assert await house.keys() == {"a/1.dcm"}


async def test_a_different_one_is_kept_beside(house: House) -> None:
    ds = make()
    first = await house.kept(data_set_of(part10(ds)), "a/1.dcm")
    ds.ImageComments = "another"
    second = await house.kept(data_set_of(part10(ds)), "a/2.dcm")
    assert await house.index.take_in([first, second]) == [Fate.NEW, Fate.ASIDE]
    assert await house.keys() == {"a/1.dcm", "a/2.dcm"}
    (location,) = await house.database.locate("default", ds.StudyInstanceUID)
    assert location.key == "a/1.dcm"


@pytest.mark.parametrize("left", [b"", b"half"])
async def test_what_a_crash_cut_short_is_dropped(left: bytes, house: House) -> None:
    data_set = data_set_of(part10(make()))
    await house.storage.put("a/1.dcm", (left,))
    whole = await house.kept(data_set_of(part10(make())), "a/2.dcm")
    suspects = [Received(_meta(data_set, "a/1.dcm"), suspect=True), Received(whole.meta, suspect=True)]
    assert await house.index.take_in(suspects) == [None, Fate.NEW]
    assert (await house.database.counts()).instances == 1


async def test_right_length_and_wrong_bytes_is_dropped_too(house: House) -> None:
    data_set = data_set_of(part10(make()))
    await house.storage.put("a/1.dcm", (bytes(len(data_set)),))
    assert await house.index.take_in([Received(_meta(data_set, "a/1.dcm"), suspect=True)]) == [None]


async def test_what_is_not_there_at_all_is_dropped(house: House) -> None:
    data_set = data_set_of(part10(make()))
    assert await house.index.take_in([Received(_meta(data_set, "a/1.dcm"), suspect=True)]) == [None]
    assert (await house.database.counts()).instances == 0


async def test_a_repeat_is_not_deleted_where_the_first_is_gone(house: House) -> None:
    data_set = data_set_of(part10(make()))
    first, second = await house.kept(data_set, "a/1.dcm"), await house.kept(data_set, "a/2.dcm")
    assert await house.index.take_in([first]) == [Fate.NEW]
    await house.storage.delete(["a/1.dcm"])
    assert await house.index.take_in([second]) == [Fate.DUPLICATE]
    assert await house.keys() == {"a/2.dcm"}


async def test_a_repeat_of_one_set_aside_is_deleted(house: House) -> None:
    ds = make()
    first = data_set_of(part10(ds))
    ds.ImageComments = "another"
    other = data_set_of(part10(ds))
    received = [await house.kept(data, f"a/{n}.dcm") for n, data in enumerate((first, other, other, first))]
    assert await house.index.take_in(received) == [Fate.NEW, Fate.ASIDE, Fate.DUPLICATE, Fate.DUPLICATE]
    assert await house.keys() == {"a/0.dcm", "a/1.dcm"}


class Cargo:
    """The bytes of a message, and how often they were asked for."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.asked = 0

    async def __call__(self) -> bytes | None:
        self.asked += 1
        return self.data


class Reluctant(MemoryStorage):
    """A storage whose disk fails to write what it had taken; put anew, it is kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__(MemoryStorage.Options(), folder)
        self.failing = True
        self.settled: list[str] = []

    async def settle(self, keys: Sequence[str]) -> None:
        if self.failing:
            raise Unavailable("reluctant", "not written")
        self.settled.extend(keys)


@pytest.mark.parametrize("left", [None, b"", b"half"])
async def test_what_a_power_cut_took_is_put_anew_from_its_message(left: bytes | None, house: House) -> None:
    data_set = data_set_of(part10(make()))
    if left is not None:
        await house.storage.put("a/1.dcm", (left,))
    received = Received(_meta(data_set, "a/1.dcm"), suspect=True, cargo=Cargo(data_set))
    assert await house.index.take_in([received]) == [Fate.NEW]
    assert await house.storage.read("a/1.dcm") == data_set


async def test_what_is_whole_is_not_put_anew(house: House) -> None:
    received = await house.kept(data_set_of(part10(make())), "a/1.dcm")
    cargo = Cargo(None)
    again = msgspec.structs.replace(received, suspect=True, cargo=cargo)
    assert await house.index.take_in([again]) == [Fate.NEW]
    assert cargo.asked == 0


async def test_a_repeat_that_is_put_anew_goes_again(house: House) -> None:
    data_set = data_set_of(part10(make()))
    first, second = await house.kept(data_set, "a/1.dcm"), await house.kept(data_set, "a/2.dcm")
    assert await house.index.take_in([first, second]) == [Fate.NEW, Fate.DUPLICATE]
    again = msgspec.structs.replace(second, suspect=True, cargo=Cargo(data_set))
    assert await house.index.take_in([again]) == [Fate.DUPLICATE]
    assert await house.keys() == {"a/1.dcm"}


async def test_only_what_came_with_bytes_is_settled_and_before_it_is_indexed(tmp_path: Path) -> None:
    house = House(tmp_path)
    storage = house.storage = Reluctant(tmp_path)
    storage.failing = False
    house.index = Index(house.database, storage, Policy.KEEP_FIRST)
    one, two = [await house.kept(data_set_of(part10(make())), f"a/{n}.dcm") for n in range(2)]
    await house.index.take_in([one, msgspec.structs.replace(two, cargo=Cargo(None))])
    assert storage.settled == ["a/1.dcm"]


async def test_what_the_disk_did_not_write_is_put_anew(tmp_path: Path) -> None:
    house = House(tmp_path)
    storage = house.storage = Reluctant(tmp_path)
    house.index = Index(house.database, storage, Policy.KEEP_FIRST)
    data_set = data_set_of(part10(make()))
    received = msgspec.structs.replace(await house.kept(data_set, "a/1.dcm"), cargo=Cargo(data_set))
    await storage.delete(["a/1.dcm"])
    await storage.put_soon("a/1.dcm", (b"as good as lost",))
    assert await house.index.take_in([received]) == [Fate.NEW]
    assert await storage.read("a/1.dcm") == data_set


async def test_without_room_for_it_nothing_is_indexed(tmp_path: Path) -> None:
    house = House(tmp_path)
    storage = house.storage = Reluctant(tmp_path)
    house.index = Index(house.database, storage, Policy.KEEP_FIRST)
    data_set = data_set_of(part10(make()))
    received = msgspec.structs.replace(await house.kept(data_set, "a/1.dcm"), cargo=Cargo(data_set))
    storage._capacity = 10
    with pytest.raises(Full):
        await house.index.take_in([received])
    assert (await house.database.counts()).instances == 0
    storage._capacity = 1 << 20
    assert await house.index.take_in([received]) == [Fate.NEW]
    assert await storage.read("a/1.dcm") == data_set


class Counting(MemoryDatabase):
    """A database that counts how often a folder is asked for."""

    asked = 0

    def keys(self, prefix: str = "") -> AsyncIterator[Location]:
        self.asked += 1
        return super().keys(prefix)


async def test_repeats_of_several_senders_are_looked_up_by_folder(tmp_path: Path) -> None:
    house = House(tmp_path)
    database = house.database = Counting(MemoryDatabase.Options(), tmp_path)
    house.index = Index(database, house.storage, Policy.KEEP_FIRST)
    contents = [data_set_of(part10(make())) for _ in range(10)]
    first = [await house.kept(data, f"{n % 2}/{n}.dcm") for n, data in enumerate(contents)]
    again = [await house.kept(data, f"{n % 2}/{n}-again.dcm") for n, data in enumerate(contents)]
    assert await house.index.take_in([*first, *again]) == [Fate.NEW] * 10 + [Fate.DUPLICATE] * 10
    assert database.asked == 2
    assert await house.keys() == {f"{n % 2}/{n}.dcm" for n in range(10)}
