from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.events import Event

from dicomnode.config import CommitmentTable, PeerTable
from dicomnode.documents import Documents
from dicomnode.ports.broker import Barrier
from dicomnode.roles.storescp.commitment import CommitmentScp
from dicomnode.roles.storescp.reports import STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE, Reports
from dicomnode.roles.storescp.role import StoreScp
from dicomnode.services.commitment import Commitment
from tests.corpus import make
from tests.roles.storescp.scp import associated, open_scp
from tests.rooms import Rooms, open_rooms

UNTIL_S = 20.0
PATIENT = CommitmentTable(hold_s=UNTIL_S, retry_s=0.05)
HASTY = CommitmentTable(hold_s=0.05, retry_s=0.05)


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path) as rooms:
        yield rooms


@asynccontextmanager
async def opened(
    rooms: Rooms, tmp_path: Path, table: CommitmentTable = HASTY, port: int = 0
) -> AsyncIterator[StoreScp]:
    """Have the door open; the modality CT1 is known at `port`, if that is one."""
    assert isinstance(rooms.broker, Barrier)
    peers = {"ct1": PeerTable("CT1", "127.0.0.1", port)} if port else {}
    commitment = Commitment(rooms.storage, rooms.database, rooms.broker)
    reports = Reports(table, peers, commitment, Documents(tmp_path / "commitment", "default", "commitment"))
    async with open_scp([CommitmentScp(reports)], rooms.ingest, peers) as role:
        yield role


class Modality:
    """Keeps the reports it is sent, and answers `status`; the first `deaf` of them with a failure."""

    def __init__(self, deaf: int = 0) -> None:
        self.reports: list[tuple[int | None, Dataset]] = []
        self.titles: list[str] = []
        self.deaf = deaf

    @property
    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self.take)]

    def take(self, event: Event) -> tuple[int, None]:
        if self.deaf:
            self.deaf -= 1
            return 0x0110, None
        self.titles.append(event.assoc.requestor.ae_title)
        self.reports.append((event.event_type, event.event_information))
        return 0x0000, None

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[int]:
        """Wait for reports on a port of its own."""
        ae = AE("CT1")
        ae.add_supported_context(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
        server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=self.handlers)
        assert server is not None
        assert server.socket is not None
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()

    async def report(self, number: int = 1) -> tuple[int | None, Dataset]:
        await until(lambda: len(self.reports) >= number)
        return self.reports[number - 1]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + UNTIL_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.02)


def requests(*uids: str, transaction: str | None = None) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction or generate_uid()
    ds.ReferencedSOPSequence = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
        ds.ReferencedSOPSequence.append(item)
    return ds


def modality_ae() -> AE:
    ae = AE("CT1")
    ae.add_requested_context(STORAGE_COMMITMENT)
    return ae


async def act(association: Any, ds: Dataset, action: int = 1, instance: str = WELL_KNOWN_INSTANCE) -> int:
    told, _ = await asyncio.to_thread(association.send_n_action, ds, action, STORAGE_COMMITMENT, instance)
    status: int = told.Status
    return status


async def ask(role: StoreScp, ds: Dataset, **more: Any) -> int:
    """Ask and part at once, as many modalities do."""
    async with associated(role, modality_ae()) as association:
        return await act(association, ds, **more)


def owed(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "commitment").glob("*.json"))


async def test_the_report_comes_on_the_same_association(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality, asked = Modality(), requests(stored.sop_instance_uid)
    async with opened(rooms, tmp_path, CommitmentTable(hold_s=0.05)) as role:
        async with associated(role, modality_ae(), modality.handlers) as association:
            assert await act(association, asked) == 0
            kind, told = await modality.report()
        await until(lambda: not owed(tmp_path))
    assert kind == 1
    assert told.TransactionUID == asked.TransactionUID
    assert told.ReferencedSOPSequence == asked.ReferencedSOPSequence
    assert told.RetrieveAETitle == "DICOMNODE"
    assert "FailedSOPSequence" not in told


async def test_what_is_not_kept_is_told(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality, asked = Modality(), requests(stored.sop_instance_uid, "9.9")
    async with opened(rooms, tmp_path) as role, associated(role, modality_ae(), modality.handlers) as association:
        assert await act(association, asked) == 0
        kind, told = await modality.report()
    assert kind == 2
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [stored.sop_instance_uid]
    assert [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in told.FailedSOPSequence] == [("9.9", 0x0112)]


async def test_a_peer_that_parted_is_called(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality, asked = Modality(), requests(stored.sop_instance_uid)
    with modality.listening() as port:
        async with opened(rooms, tmp_path, PATIENT, port) as role:
            assert await ask(role, asked) == 0
            kind, told = await modality.report()
            await until(lambda: not owed(tmp_path))
    assert (kind, told.TransactionUID) == (1, asked.TransactionUID)
    assert modality.titles == ["DICOMNODE"]


async def test_a_peer_that_listens_to_nothing_where_it_asked_is_called(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality, deaf = Modality(), Modality(deaf=1)
    with modality.listening() as port:
        async with (
            opened(rooms, tmp_path, HASTY, port) as role,
            associated(role, modality_ae(), deaf.handlers) as association,
        ):
            assert await act(association, requests(stored.sop_instance_uid)) == 0
            await modality.report()
    assert (deaf.deaf, deaf.reports) == (0, [])


async def test_a_peer_that_refuses_is_told_again(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality = Modality(deaf=2)
    with modality.listening() as port:
        async with opened(rooms, tmp_path, HASTY, port) as role:
            assert await ask(role, requests(stored.sop_instance_uid)) == 0
            await modality.report()
            await until(lambda: not owed(tmp_path))
    assert len(modality.reports) == 1


async def test_a_report_survives_a_restart_and_a_peer_that_is_away(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality, asked = Modality(), requests(stored.sop_instance_uid)
    with modality.listening() as port:
        pass  # it is away now, but we know where it will be
    async with opened(rooms, tmp_path, HASTY, port) as role:
        assert await ask(role, asked) == 0
        assert len(owed(tmp_path)) == 1
    async with opened(rooms, tmp_path, HASTY, port):
        with modality.listening(port):
            kind, told = await modality.report()
            await until(lambda: not owed(tmp_path))
    assert (kind, told.TransactionUID, len(modality.reports)) == (1, asked.TransactionUID, 1)


async def test_a_peer_that_stays_away_is_given_up(rooms: Rooms, tmp_path: Path) -> None:
    with Modality().listening() as port:
        pass
    table = CommitmentTable(hold_s=0.05, retry_s=0.05, give_up_s=0.2)
    async with opened(rooms, tmp_path, table, port) as role:
        assert await ask(role, requests("1.2.3")) == 0
        await until(lambda: not owed(tmp_path))


async def test_a_stranger_that_parted_cannot_be_told(rooms: Rooms, tmp_path: Path) -> None:
    async with opened(rooms, tmp_path, PATIENT) as role:
        assert await ask(role, requests("1.2.3")) == 0
        await until(lambda: not owed(tmp_path))


async def test_a_request_made_again_is_reported_once(rooms: Rooms, tmp_path: Path) -> None:
    stored = await rooms.take_in(make())
    modality, asked = Modality(), requests(stored.sop_instance_uid)
    with modality.listening() as port:
        async with opened(rooms, tmp_path, PATIENT, port) as role:
            async with associated(role, modality_ae()) as association:
                assert [await act(association, asked) for _ in range(3)] == [0, 0, 0]
                assert len(owed(tmp_path)) == 1
            await until(lambda: not owed(tmp_path))
    assert len(modality.reports) == 1


@pytest.mark.parametrize(
    ("ds", "more", "status"),
    [
        (requests("1.2.3"), {"action": 2}, 0x0123),
        (requests("1.2.3"), {"instance": "1.2.3"}, 0x0112),
        (requests(), {}, 0x0115),
        (requests("1.2.3", transaction="1" * 200), {}, 0x0115),
        (requests(""), {}, 0x0115),
    ],
)
async def test_what_cannot_be_asked(
    ds: Dataset, more: dict[str, Any], status: int, rooms: Rooms, tmp_path: Path
) -> None:
    async with opened(rooms, tmp_path) as role:
        assert await ask(role, ds, **more) == status
    assert owed(tmp_path) == []


async def test_too_many_reports_are_not_owed(rooms: Rooms, tmp_path: Path) -> None:
    table = CommitmentTable(hold_s=UNTIL_S, pending=2)
    async with opened(rooms, tmp_path, table) as role, associated(role, modality_ae()) as association:
        assert [await act(association, requests("1.2.3")) for _ in range(3)] == [0, 0, 0x0213]


async def test_a_large_request_is_reported_whole(rooms: Rooms, tmp_path: Path) -> None:
    stored = [await rooms.take_in(make()) for _ in range(3)]
    uids = [one.sop_instance_uid for one in stored] + [f"1.2.3.{number}" for number in range(10_000)]
    modality = Modality()
    async with opened(rooms, tmp_path) as role, associated(role, modality_ae(), modality.handlers) as association:
        assert await act(association, requests(*uids)) == 0
        _, told = await modality.report()
    assert (len(told.ReferencedSOPSequence), len(told.FailedSOPSequence)) == (3, 10_000)


async def test_a_damaged_file_of_a_report_stops_nobody(rooms: Rooms, tmp_path: Path) -> None:
    (tmp_path / "commitment").mkdir()
    (tmp_path / "commitment" / "x.json").write_text("{")
    modality = Modality()
    async with opened(rooms, tmp_path) as role, associated(role, modality_ae(), modality.handlers) as association:
        assert await act(association, requests("1.2.3")) == 0
        await modality.report()


def test_pynetdicom_knows_the_roles() -> None:
    """The peer in these tests takes reports only from one that is the SCP."""
    assert build_role(STORAGE_COMMITMENT, scp_role=True).scp_role
