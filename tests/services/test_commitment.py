from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

from dicomnode.errors import BadRequest
from dicomnode.model.commitment import Outcome, Reason, Reference
from dicomnode.model.instance import Stored
from dicomnode.ports.broker import Barrier
from dicomnode.services.commitment import MOST_REFERENCES, Commitment
from tests.corpus import make
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


@pytest.fixture
def commitment(rooms: Rooms) -> Commitment:
    assert isinstance(rooms.broker, Barrier)
    return Commitment(rooms.storage, rooms.database, rooms.broker)


def reference(stored: Stored) -> Reference:
    return Reference(stored.sop_class_uid, stored.sop_instance_uid)


async def test_what_is_kept_is_committed_to(rooms: Rooms, commitment: Commitment) -> None:
    asked = [reference(await rooms.take_in(make())) for _ in range(150)]
    assert await commitment.check("default", asked) == Outcome(tuple(asked))
    assert await commitment.check("default", []) == Outcome(())


async def test_what_is_not_there_is_told_with_its_reason(rooms: Rooms, commitment: Commitment) -> None:
    kept, gone, short = [await rooms.take_in(make()) for _ in range(3)]
    await commitment.check("default", [reference(short)])
    await rooms.storage.delete([gone.key])
    await rooms.storage.delete([short.key])
    await rooms.storage.put(short.key, [b"half"])
    never = Reference(CTImageStorage, "9.9")
    other_class = Reference(MRImageStorage, kept.sop_instance_uid)
    nameless = Reference(CTImageStorage, "")
    asked = [never, reference(gone), reference(short), other_class, nameless, reference(kept), never]
    assert await commitment.check("default", asked) == Outcome(
        (reference(kept),),
        (
            (never, Reason.NO_SUCH_OBJECT_INSTANCE),
            (reference(gone), Reason.NO_SUCH_OBJECT_INSTANCE),
            (reference(short), Reason.PROCESSING_FAILURE),
            (other_class, Reason.CLASS_INSTANCE_CONFLICT),
            (nameless, Reason.NO_SUCH_OBJECT_INSTANCE),
            (never, Reason.NO_SUCH_OBJECT_INSTANCE),
        ),
    )


async def test_tenants_are_committed_to_their_own(rooms: Rooms, commitment: Commitment) -> None:
    one = reference(await rooms.take_in(make(), tenant="one"))
    assert (await commitment.check("one", [one])).committed == (one,)
    assert (await commitment.check("default", [one])).failed == ((one, Reason.NO_SUCH_OBJECT_INSTANCE),)


async def test_without_a_barrier_the_index_is_waited_for(rooms: Rooms) -> None:
    commitment = Commitment(rooms.storage, rooms.database, None, patience_s=20)
    ds = make()
    one = Reference(CTImageStorage, ds.SOPInstanceUID)
    checking = asyncio.create_task(commitment.check("default", [one]))
    await asyncio.sleep(0)
    await rooms.take_in(ds)
    assert (await checking).committed == (one,)
    impatient = Commitment(rooms.storage, rooms.database, None, patience_s=0)
    assert (await impatient.check("default", [Reference(CTImageStorage, "9.9")])).committed == ()


async def test_too_many_are_refused(commitment: Commitment) -> None:
    with pytest.raises(BadRequest, match="more than 100000 objects"):
        await commitment.check("default", [Reference(CTImageStorage, "1")] * (MOST_REFERENCES + 1))
