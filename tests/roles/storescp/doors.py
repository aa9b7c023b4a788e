"""The DIMSE door over real rooms, and pynetdicom asking at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from dicomnode.config import LimitsTable, PeerTable, QueryTable, StoreScpTable
from dicomnode.dimse.outgoing import Transcoder
from dicomnode.roles.storescp.query import QueryScp
from dicomnode.roles.storescp.retrieval import RetrievalScp
from dicomnode.roles.storescp.role import StoreScp
from tests.rooms import Rooms

ROOT = "1.2.840.10008.5.1.4.1.2."
PATIENT, STUDY, PATIENT_STUDY = ROOT + "1.", ROOT + "2.", ROOT + "3."


@asynccontextmanager
async def open_door(
    rooms: Rooms,
    table: QueryTable | None = None,
    peers: Mapping[str, PeerTable] | None = None,
    transcoder: Transcoder | None = None,
    **settings: Any,
) -> AsyncIterator[StoreScp]:
    """Have the door open on a free port, with C-FIND, C-MOVE and C-GET."""
    door = StoreScpTable(port=0, **{"limits": LimitsTable(drain_s=1), **settings})
    table, peers = table or QueryTable(), peers or {}
    subjects = (
        QueryScp(table, door, rooms.find),
        RetrievalScp(table, door, peers, rooms.retrieve, transcoder),
    )
    async with StoreScp(door, peers, "default", rooms.ingest, subjects) as role:
        running = asyncio.create_task(role.run())
        try:
            yield role
        finally:
            running.cancel()
            await asyncio.wait([running])


def identifier(level: str, **keys: Any) -> Dataset:
    """Return an identifier."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


class Told(msgspec.Struct, frozen=True):
    """A response."""

    status: int
    ds: Dataset | None
    comment: str = ""
    counts: tuple[int | None, ...] = ()


class Asking(msgspec.Struct, frozen=True):
    """How pynetdicom is to ask."""

    root: str = STUDY
    syntax: str = ExplicitVRLittleEndian
    extended: bytes = b""
    called: str = "DICOMNODE"
    calling: str = "ASKER"
    stop_after: int | None = None
    storage: Sequence[tuple[str, str]] = ()


async def find(role: StoreScp, ds: Dataset, asking: Asking | None = None) -> list[Told]:
    """Return every response to a C-FIND."""
    asking = asking or Asking()
    return await asyncio.to_thread(_ask, role, asking, f"{asking.root}1", lambda one, uid: one.send_c_find(ds, uid))


async def move(role: StoreScp, ds: Dataset, destination: str, asking: Asking | None = None) -> list[Told]:
    """Return every response to a C-MOVE."""
    asking = asking or Asking()
    return await asyncio.to_thread(
        _ask, role, asking, f"{asking.root}2", lambda one, uid: one.send_c_move(ds, destination, uid)
    )


async def get(
    role: StoreScp, ds: Dataset, asking: Asking, on_store: Callable[[evt.Event], int] | None = None
) -> list[Told]:
    """Return every response to a C-GET; `on_store` takes the objects."""
    return await asyncio.to_thread(
        _ask, role, asking, f"{asking.root}3", lambda one, uid: one.send_c_get(ds, uid), on_store
    )


def _ask(
    role: StoreScp,
    asking: Asking,
    sop_class: str,
    send: Callable[[Association, UID], Any],
    on_store: Callable[[evt.Event], int] | None = None,
) -> list[Told]:
    ae = AE(asking.calling)
    ae.add_requested_context(sop_class, asking.syntax)
    for pair in asking.storage:
        ae.add_requested_context(*pair)
    items: list[Any] = [build_role(uid, scp_role=True) for uid in dict.fromkeys(uid for uid, _ in asking.storage)]
    if asking.extended:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = UID(sop_class), asking.extended
        items.append(item)
    handlers: list[Any] = [(evt.EVT_C_STORE, on_store)] if on_store else []
    host, port = role.endpoint
    association = ae.associate(host, port, ext_neg=items, ae_title=asking.called, evt_handlers=handlers)
    assert association.is_established
    try:
        return list(_told(association, asking, send(association, UID(sop_class))))
    except BaseException:
        association.abort()
        raise
    finally:
        association.release()


def _told(association: Association, asking: Asking, responses: Any) -> Any:
    for number, (status, ds) in enumerate(responses, 1):
        counts = tuple(
            status.get(f"NumberOf{kind}Suboperations") for kind in ("Remaining", "Completed", "Failed", "Warning")
        )
        yield Told(status.get("Status", -1), ds, status.get("ErrorComment", ""), counts)
        if number == asking.stop_after:
            context = association._accepted_cx
            association.send_c_cancel(1, next(iter(context)))
