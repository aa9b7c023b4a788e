"""The DIMSE door with chosen subjects before real services, and peers that nobody here wrote."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association

from dicomnode.config import LimitsTable, PeerTable, StoreScpTable
from dicomnode.roles.storescp.role import StoreScp, Subject
from dicomnode.services.ingest import Ingest


@asynccontextmanager
async def open_scp(
    subjects: Sequence[Subject], ingest: Ingest, peers: Mapping[str, PeerTable] | None = None, **settings: Any
) -> AsyncIterator[StoreScp]:
    """Have the door open on a free port and serving."""
    settings.setdefault("limits", LimitsTable(drain_s=1))
    role = StoreScp(StoreScpTable(port=0, **settings), peers or {}, "default", ingest, subjects)
    async with role:
        running = asyncio.create_task(role.run())
        try:
            yield role
        finally:
            running.cancel()
            await asyncio.wait([running])


@asynccontextmanager
async def associated(
    role: StoreScp, ae: AE, handlers: Sequence[tuple[Any, Any]] = (), **more: Any
) -> AsyncIterator[Association]:
    """Have an association of pynetdicom's with the door."""
    host, port = role.endpoint
    association = await asyncio.to_thread(
        lambda: ae.associate(host, port, ae_title="DICOMNODE", evt_handlers=list(handlers), **more)
    )
    assert association.is_established
    try:
        yield association
    finally:
        await asyncio.to_thread(_part, association)


async def findscu(
    role: StoreScp, folder: Path, keys: Sequence[str], options: Sequence[str] = ("-W",)
) -> tuple[int, list[Dataset]]:
    """Ask with dcmtk's findscu; return its exit code and the responses."""
    path = shutil.which("findscu")
    assert path is not None
    host, port = role.endpoint
    folder.mkdir(exist_ok=True)
    asked = [word for key in keys for word in ("-k", key)]
    process = await asyncio.create_subprocess_exec(
        path, *options, "-X", "-od", str(folder), *asked, host, str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TCP_NODELAY": "1"},
    )  # fmt: skip
    code = await process.wait()
    return code, [pydicom.dcmread(file, force=True) for file in sorted(folder.iterdir())]


def _part(association: Association) -> None:
    if association.is_established:
        association.release()
    association.join()
