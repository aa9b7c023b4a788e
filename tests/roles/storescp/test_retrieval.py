from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
)
from pynetdicom import AE, evt

from dicomnode.config import PeerTable, QueryTable
from dicomnode.dimse.outgoing import Opened, Sendable
from dicomnode.dimse.retry import Retry
from dicomnode.errors import Corrupt, Unavailable
from dicomnode.model.query import Location
from dicomnode.roles.storescp import retrieval
from tests.corpus import make
from tests.roles.storescp.doors import PATIENT, PATIENT_STUDY, Asking, Told, find, get, identifier, move, open_door
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms

CT = [(CTImageStorage, ExplicitVRLittleEndian)]
BIG = 3 * 1024 * 1024


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


async def fill(rooms: Rooms, studies: int = 2, series: int = 2, instances: int = 2) -> None:
    for study in range(1, studies + 1):
        for one in range(1, series + 1):
            for number in range(1, instances + 1):
                await rooms.take_in(
                    make(
                        PatientID=f"P{(study + 1) // 2}",
                        StudyInstanceUID=f"1.{study}",
                        SeriesInstanceUID=f"1.{study}.{one}",
                        SOPInstanceUID=f"1.{study}.{one}.{number}",
                        SeriesNumber=one,
                        InstanceNumber=number,
                    )
                )


class Taker:
    """What takes objects: answers as `answer` says, and keeps their data sets by UID."""

    def __init__(self, answer: Callable[[str], int] = lambda uid: 0) -> None:
        self.answer = answer
        self.taken: list[str] = []
        self.data: dict[str, bytes] = {}
        self.originators: set[tuple[str, int | None]] = set()
        self.gate: threading.Event | None = None
        self.calling: set[str] = set()

    def __call__(self, event: evt.Event) -> int:
        if self.gate is not None:
            assert self.gate.wait(20)
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID)
        self.taken.append(uid)
        self.originators.add((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        status = self.answer(uid)
        if status == 0:
            self.data[uid] = request.DataSet.getvalue()
        return status


@contextmanager
def listening(taker: Taker, syntax: str = ExplicitVRLittleEndian) -> Iterator[PeerTable]:
    ae = AE("TAKER")
    ae.add_supported_context(CTImageStorage, syntax)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, taker)])
    assert server is not None
    assert server.socket is not None
    try:
        yield PeerTable("TAKER", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        server.shutdown()


def nobody() -> PeerTable:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return PeerTable("TAKER", "127.0.0.1", probe.getsockname()[1])


def failed_list(told: Told) -> list[str]:
    if told.ds is None or "FailedSOPInstanceUIDList" not in told.ds:
        return []
    value = told.ds.FailedSOPInstanceUIDList
    return [value] if isinstance(value, str) else list(value)


@pytest.mark.parametrize(
    ("root", "ds", "count"),
    [
        (PATIENT, identifier("PATIENT", PatientID="P1"), 8),
        (PATIENT, identifier("STUDY", PatientID="P1", StudyInstanceUID="1.2"), 4),
        (PATIENT, identifier("STUDY", PatientID="P2", StudyInstanceUID="1.2"), 0),
        (PATIENT, identifier("IMAGE", PatientID="P1", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1",
                             SOPInstanceUID="1.2.1.2"), 1),
        (PATIENT_STUDY, identifier("STUDY", PatientID="P1", StudyInstanceUID=["1.1", "1.2"]), 8),
        (None, identifier("STUDY", StudyInstanceUID="1.1"), 4),
        (None, identifier("STUDY", StudyInstanceUID=["1.1", "1.3", "9"]), 8),
        (None, identifier("SERIES", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2"), 2),
        (None, identifier("SERIES", StudyInstanceUID="1.1", SeriesInstanceUID=["1.1.2", "1.1.1", "1.2.1"]), 4),
        (None, identifier("IMAGE", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2",
                          SOPInstanceUID=["1.1.2.1", "1.1.2.2", "1.1.1.1"]), 2),
        (None, identifier("STUDY", StudyInstanceUID="9"), 0),
    ],
)  # fmt: skip
async def test_what_is_chosen(root: str | None, ds: Dataset, count: int, rooms: Rooms) -> None:
    await fill(rooms, 3)
    taker = Taker()
    asking = Asking(root, storage=CT) if root else Asking(storage=CT)
    async with open_door(rooms) as role:
        told = await get(role, ds, asking, taker)
    assert (told[-1].status, told[-1].counts) == (0, (None, count, 0, 0))
    assert len(set(taker.taken)) == len(taker.taken) == count
    assert told[0].status == 0xFF00
    assert told[0].counts == (count, 0, 0, 0)


@pytest.mark.parametrize(
    ("root", "ds", "named"),
    [
        (PATIENT, identifier("STUDY", StudyInstanceUID="1.1"), "PatientID"),
        (PATIENT, identifier("PATIENT", PatientID=""), "PatientID"),
        (None, identifier("STUDY", StudyInstanceUID=""), "StudyInstanceUID"),
        (None, identifier("STUDY", StudyInstanceUID="*"), "StudyInstanceUID"),
        (None, identifier("SERIES", SeriesInstanceUID="1.1.1"), "StudyInstanceUID"),
        (None, identifier("IMAGE", StudyInstanceUID="1.1", SOPInstanceUID="1"), "SeriesInstanceUID"),
        (None, identifier("PATIENT", PatientID="P1"), "QueryRetrieveLevel"),
        (None, identifier("x"), "QueryRetrieveLevel"),
    ],
)
async def test_what_the_model_asks_for(root: str | None, ds: Dataset, named: str, rooms: Rooms) -> None:
    asking = Asking(root, storage=CT) if root else Asking(storage=CT)
    async with open_door(rooms, peers={"taker": nobody()}) as role:
        [got] = await get(role, ds, asking)
        [moved] = await move(role, ds, "TAKER", asking)
    assert (got.status, moved.status) == (0xA900, 0xA900)
    assert named in got.comment
    assert named in moved.comment


async def test_relational_retrieval(rooms: Rooms) -> None:
    await fill(rooms)
    wanted = ["1.1.1.1", "1.2.2.2", "9"]
    async with open_door(rooms) as role:
        for extended, count in ((b"\1", 2), (b"\1\1", 2)):
            taker = Taker()
            told = await get(
                role, identifier("IMAGE", SOPInstanceUID=wanted), Asking(storage=CT, extended=extended), taker
            )
            assert (told[-1].status, sorted(taker.taken)) == (0, wanted[:count])
        [told_one] = await get(role, identifier("IMAGE", SOPInstanceUID=wanted), Asking(storage=CT, extended=b"\0\1"))
        assert told_one.status == 0xA900
        told = await get(role, identifier("SERIES", SeriesInstanceUID="1.2.1"), Asking(storage=CT, extended=b"\1"))
        assert told[0].counts[0] == 2


async def test_what_comes_is_what_was_sent(rooms: Rooms) -> None:
    ds = make(StudyInstanceUID="1.1", PixelData=bytes(range(256)) * (BIG // 256))
    await rooms.take_in(ds)
    [location] = await rooms.retrieve.locate("default", "1.1")
    kept = (await rooms.storage.read(location.key))[location.data_set_offset :]
    got, moved = Taker(), Taker()
    with listening(moved) as peer:
        async with open_door(rooms, peers={"taker": peer}) as role:
            asked = identifier("STUDY", StudyInstanceUID="1.1")
            await get(role, asked, Asking(storage=CT), got)
            told = await move(role, asked, "TAKER", Asking(calling="VIEWER"))
    assert (told[0].counts, told[-1].status, told[-1].counts) == ((1, 0, 0, 0), 0, (None, 1, 0, 0))
    assert got.data == moved.data == {ds.SOPInstanceUID: kept}
    assert [title.strip() for title, _ in moved.originators] == ["VIEWER"]
    assert all(number for _, number in moved.originators)


async def test_failures_and_warnings(rooms: Rooms) -> None:
    await fill(rooms, 1, 2, 4)
    asked = identifier("STUDY", StudyInstanceUID="1.1")

    def answer(uid: str) -> int:
        return {"1.1.1.1": 0xC000, "1.1.1.2": 0xB000, "1.1.2.1": 0xA900}.get(uid, 0)

    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        async with open_door(rooms) as role:
            told = (await get(role, asked, Asking(storage=CT, syntax=syntax), Taker(answer)))[-1]
        assert (told.status, told.counts) == (0xB000, (None, 5, 2, 1))
        assert sorted(failed_list(told)) == ["1.1.1.1", "1.1.2.1"]
    with listening(Taker(answer)) as peer:
        async with open_door(rooms, peers={"taker": peer}) as role:
            told = (await move(role, asked, "TAKER"))[-1]
    assert (told.status, told.counts) == (0xB000, (None, 5, 2, 1))
    assert sorted(failed_list(told)) == ["1.1.1.1", "1.1.2.1"]
    async with open_door(rooms) as role:
        told = (await get(role, asked, Asking(storage=CT), Taker(lambda _: 0xC000)))[-1]
    assert (told.status, told.counts, len(failed_list(told))) == (0xA702, (None, 0, 8, 0), 8)


async def test_a_destination_that_has_no_room_for_a_while(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_RETRY", Retry(attempts=3, first_s=0.01, most_s=0.02))
    await fill(rooms, 1, 1, 2)
    tries: list[str] = []

    def answer(uid: str) -> int:
        tries.append(uid)
        return 0xA700 if len(tries) < 3 else 0

    with listening(Taker(answer)) as peer:
        async with open_door(rooms, peers={"taker": peer}) as role:
            told = (await move(role, identifier("STUDY", StudyInstanceUID="1.1"), "TAKER"))[-1]
    assert (told.status, told.counts) == (0, (None, 2, 0, 0))
    assert len(tries) == 4


async def test_destinations(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_RETRY", Retry(attempts=2, first_s=0.01, most_s=0.02))
    await fill(rooms, 1, 1, 2)
    asked = identifier("STUDY", StudyInstanceUID="1.1")
    taker = Taker()
    with listening(taker) as peer:
        peers = {
            "away": PeerTable("AWAY", *("127.0.0.1", nobody().port)),
            "theirs": PeerTable("THEIRS", "127.0.0.1", peer.port, tenant="clinic"),
            "mine": PeerTable("MINE", "127.0.0.1", peer.port, tenant="default"),
        }
        async with open_door(rooms, peers=peers) as role:
            assert [one.status for one in await move(role, asked, "NOBODY")] == [0xA801]
            assert [one.status for one in await move(role, asked, "127.0.0.1")] == [0xA801]
            assert [one.status for one in await move(role, asked, "THEIRS")] == [0xA801]
            assert taker.taken == []
            told = await move(role, asked, "AWAY")
            assert (told[-1].status, told[-1].counts) == (0xA702, (None, 0, 2, 0))
            assert len(failed_list(told[-1])) == 2
            assert (await move(role, asked, "MINE"))[-1].status == 0
    assert len(taker.taken) == 2


async def test_cancel_lets_the_rest_remain(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_EVERY", 1)
    monkeypatch.setattr(retrieval, "_EVERY_S", 0.01)
    await fill(rooms, 1, 1, 40)
    asked = identifier("STUDY", StudyInstanceUID="1.1")
    taker = Taker()
    async with open_door(rooms) as role:
        told = (await get(role, asked, Asking(storage=CT, stop_after=3), taker))[-1]
        remaining, completed, failed, _ = told.counts
        assert (told.status, failed, completed) == (0xFE00, 0, len(taker.taken))
        assert remaining is not None
        assert completed is not None
        assert 0 < completed < remaining + completed == 40
    taker = Taker()
    taker.gate = threading.Event()
    with listening(taker) as peer:
        async with open_door(rooms, peers={"taker": peer}) as role:
            moving = asyncio.create_task(move(role, asked, "TAKER", Asking(stop_after=2)))
            await asyncio.sleep(0)
            while not any(
                acceptor._responder._current and acceptor._responder._current[1].asked
                for acceptor in tuple(role._listener._sockets)
            ):
                await asyncio.sleep(0.01)
            taker.gate.set()
            told = (await moving)[-1]
    assert (told.status, told.counts[2]) == (0xFE00, 0)
    assert told.counts[1] == len(taker.taken) < 5
    assert told.counts[0] == 40 - len(taker.taken)


async def test_an_asker_that_goes_away_ends_the_sending(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_EVERY_S", 0.01)
    await fill(rooms, 1, 1, 40)
    taker = Taker()
    taker.gate = threading.Event()
    with listening(taker) as peer:
        async with open_door(rooms, peers={"taker": peer}) as role:
            await asyncio.to_thread(_ask_and_abort, role.endpoint)
            while role._listener._sockets:
                taker.gate.set()
                await asyncio.sleep(0.01)
            told = await find(role, identifier("STUDY", StudyInstanceUID=""))
            assert [one.status for one in told] == [0xFF00, 0]
    assert len(taker.taken) < 40


def _ask_and_abort(endpoint: tuple[str, int]) -> None:
    ae = AE("ASKER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.2.2.2", ExplicitVRLittleEndian)
    association = ae.associate(*endpoint)
    next(iter(association.send_c_move(identifier("STUDY", StudyInstanceUID="1.1"), "TAKER",
                                      "1.2.840.10008.5.1.4.1.2.2.2")))  # fmt: skip
    association.abort()


async def test_a_peer_that_takes_other_things(rooms: Rooms) -> None:
    await fill(rooms, 1, 1, 2)
    asked = identifier("STUDY", StudyInstanceUID="1.1")
    async with open_door(rooms) as role:
        told = (await get(role, asked, Asking(storage=[(MRImageStorage, ExplicitVRLittleEndian)])))[-1]
        assert (told.status, told.counts, len(failed_list(told))) == (0xA702, (None, 0, 2, 0), 2)
        told = (await get(role, asked, Asking(storage=[(CTImageStorage, ImplicitVRLittleEndian)])))[-1]
        assert (told.status, told.counts) == (0xA702, (None, 0, 2, 0))


class Tagger:
    """Transcodes by putting a word in front."""

    targets = (JPEG2000Lossless, ImplicitVRLittleEndian)

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def transcode(self, sendable: Sendable, transfer_syntax_uid: str) -> Opened:
        self.asked.append((sendable.sop_instance_uid, transfer_syntax_uid))
        if sendable.sop_instance_uid == "1.1.1.2":
            raise Corrupt("codec", "it cannot be read")
        opened = await sendable.open()
        return Opened(b"transcoded" + bytes(opened.first))


async def test_what_the_peer_does_not_take_as_it_is_is_transcoded(rooms: Rooms) -> None:
    await fill(rooms, 1, 1, 2)
    asked = identifier("STUDY", StudyInstanceUID="1.1")
    transcoder, got, moved = Tagger(), Taker(), Taker()
    with listening(moved, ImplicitVRLittleEndian) as peer:
        async with open_door(rooms, peers={"taker": peer}, transcoder=transcoder) as role:
            storage = [(CTImageStorage, ImplicitVRLittleEndian)]
            told = (await get(role, asked, Asking(storage=storage), got))[-1]
            assert (told.status, told.counts, failed_list(told)) == (0xB000, (None, 1, 1, 0), ["1.1.1.2"])
            told = (await move(role, asked, "TAKER"))[-1]
            assert (told.status, told.counts, failed_list(told)) == (0xB000, (None, 1, 1, 0), ["1.1.1.2"])
    assert set(transcoder.asked) == {("1.1.1.1", ImplicitVRLittleEndian), ("1.1.1.2", ImplicitVRLittleEndian)}
    assert got.data["1.1.1.1"].startswith(b"transcoded")
    assert moved.data == got.data


async def test_too_many_objects(rooms: Rooms) -> None:
    await fill(rooms, 1, 1, 3)
    async with open_door(rooms, QueryTable(objects=2)) as role:
        [told] = await get(role, identifier("STUDY", StudyInstanceUID="1.1"), Asking(storage=CT))
    assert (told.status, told.comment) == (0xA701, "more than 2 objects; ask for less")


async def test_tenants_get_their_own(rooms: Rooms) -> None:
    await fill(rooms, 1, 1, 1)
    asked = identifier("STUDY", StudyInstanceUID="1.1")
    async with open_door(rooms, ae_titles={"CLINIC": "clinic"}) as role:
        assert (await get(role, asked, Asking(storage=CT, called="CLINIC"), Taker()))[-1].counts == (None, 0, 0, 0)
        assert (await get(role, asked, Asking(storage=CT), Taker()))[-1].counts == (None, 1, 0, 0)


async def test_objects_that_cannot_be_read(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(rooms, 1, 1, 3)
    read = rooms.storage.read

    async def gone(key: str, offset: int = 0, length: int | None = None) -> bytes:
        if "1.1.1.2" in key:
            raise Unavailable("files", "the disk is gone")
        return await read(key, offset, length)

    monkeypatch.setattr(rooms.storage, "read", gone)
    taker = Taker()
    async with open_door(rooms) as role:
        told = (await get(role, identifier("STUDY", StudyInstanceUID="1.1"), Asking(storage=CT), taker))[-1]
    assert (told.status, told.counts, failed_list(told)) == (0xB000, (None, 2, 1, 0), ["1.1.1.2"])


async def test_an_object_that_ends_too_early_ends_the_association(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rooms.take_in(make(StudyInstanceUID="1.1", PixelData=bytes(BIG)))
    read = rooms.storage.read

    async def short(key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await read(key, offset, length) if offset < BIG // 2 else b""

    monkeypatch.setattr(rooms.storage, "read", short)
    taker = Taker()
    async with open_door(rooms) as role:
        told = await get(role, identifier("STUDY", StudyInstanceUID="1.1"), Asking(storage=CT), taker)
        assert [one.status for one in told] == [0xFF00, -1]
        assert taker.taken == []
        assert [one.status for one in await find(role, identifier("STUDY", StudyInstanceUID=""))] == [0xFF00, 0]


async def test_an_index_that_is_away(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> list[Location]:
        raise Unavailable("sqlite", "secret")

    monkeypatch.setattr(rooms.database, "locate", away)
    async with open_door(rooms, peers={"taker": nobody()}) as role:
        asked = identifier("STUDY", StudyInstanceUID="1.1")
        for [told] in (await get(role, asked, Asking(storage=CT)), await move(role, asked, "TAKER")):
            assert (told.status, told.comment) == (0xA701, "the index cannot be read now")
