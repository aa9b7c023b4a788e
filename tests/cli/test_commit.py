from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from tests.cli.commands import Shell
from tests.corpus import make, part10
from tests.dimse.peers import Recording, listening
from tests.dimse.programs import free_port

KNOWN = "1.2.3.1"


def _report(asked: Dataset) -> tuple[int, Dataset]:
    """Return the event and what it says: all are kept but those whose UID ends in 9."""
    kept, failed = [], []
    for item in asked.ReferencedSOPSequence:
        one = Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = (
            item.ReferencedSOPClassUID,
            item.ReferencedSOPInstanceUID,
        )
        if item.ReferencedSOPInstanceUID.endswith("9"):
            one.FailureReason = 0x0112
            failed.append(one)
        else:
            kept.append(one)
    ds = Dataset()
    ds.TransactionUID = asked.TransactionUID
    if kept:
        ds.ReferencedSOPSequence = Sequence(kept)
    if failed:
        ds.FailedSOPSequence = Sequence(failed)
    return (2 if failed else 1), ds


def _on_the_same(event: Any, asked: Dataset) -> None:
    kind, ds = _report(asked)
    event.assoc.send_n_event_report(ds, kind, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")


def _on_a_new_one(port: int, statuses: list[int]) -> Callable[[Any, Dataset], None]:
    def report(event: Any, asked: Dataset) -> None:
        ae = AE("ARCHIVE")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = ae.associate("127.0.0.1", port, ext_neg=[role], ae_title="DICOMNODE")
        assert association.is_established
        kind, ds = _report(asked)
        stranger = deepcopy(ds)
        stranger.TransactionUID = "1.2.3.4.5"
        for one in (stranger, ds):
            status, _ = association.send_n_event_report(one, kind, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
            statuses.append(status.Status)
        association.release()

    return report


@asynccontextmanager
async def archive(report: Callable[[Any, Dataset], None] | None) -> AsyncIterator[str]:
    """Run a pynetdicom SCP of storage commitment; yield what to call it."""
    reporting: list[threading.Thread] = []

    def act(event: Any) -> tuple[int, None]:
        if report is not None:
            # It waits for the response that this handler has yet to give.
            thread = threading.Timer(0.2, report, (event, event.action_information))
            reporting.append(thread)
            thread.start()
        return 0x0000, None

    ae = AE("ARCHIVE")
    ae.add_supported_context(StorageCommitmentPushModel)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, act)])
    assert server is not None
    assert server.socket is not None
    try:
        yield f"ARCHIVE@127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        for thread in reporting:
            await asyncio.to_thread(thread.join, 20)
        await asyncio.to_thread(server.shutdown)


def _object(uid: str) -> str:
    return f"{CTImageStorage}:{uid}"


async def test_the_report_comes_on_the_same_association(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.dcm").write_bytes(part10(make(SOPInstanceUID=KNOWN)))
    (tmp_path / "in" / "notes.txt").write_text("hello" * 100)
    async with archive(_on_the_same) as peer:
        assert await shell("commit", peer, str(tmp_path / "in"), "--json") == 0
        assert shell.json == {"committed": [KNOWN], "failed": []}
        assert await shell("commit", peer, str(tmp_path / "in"), _object("1.2.9")) == 1
        assert "1 committed, 1 not" in shell.out
        assert "1.2.9: the peer does not have it (0x0112)" in shell.out


async def test_the_report_comes_on_another_association(shell: Shell) -> None:
    port = free_port()
    statuses: list[int] = []
    async with archive(_on_a_new_one(port, statuses)) as peer:
        words = ("commit", peer, _object(KNOWN), "--port", str(port), "--timeout", "20", "--json")
        assert await shell(*words) == 0
    assert shell.json["committed"] == [KNOWN]
    assert statuses == [0x0114, 0x0000]  # a transaction that nobody asked for is refused


async def test_no_report_is_a_failure(shell: Shell) -> None:
    async with archive(None) as peer:
        assert await shell("commit", peer, _object(KNOWN), "--timeout", "0.5") == 1
    assert "no report came within 0.5 s" in shell.err


async def test_a_peer_that_parts_before_it_reports_is_told_at_once(shell: Shell) -> None:
    def abort(event: Any, asked: Dataset) -> None:
        event.assoc.abort()

    async with archive(abort) as peer:
        assert await shell("commit", peer, _object(KNOWN), "--timeout", "50") == 1
    assert "before the report came" in shell.err


async def test_a_peer_without_the_service_is_told(shell: Shell) -> None:
    async with listening(Recording()) as listener:
        host, port = listener.address
        assert await shell("commit", f"X@{host}:{port}", _object(KNOWN)) == 1
    assert "does not accept 1.2.840.10008.1.20.1" in shell.err


@pytest.mark.parametrize("words", [["nothing.dcm"], ["1.2.3"], ["1.2:1..3"]])
async def test_what_is_no_object_is_told(shell: Shell, words: list[str]) -> None:
    assert await shell("commit", "X@127.0.0.1:1", *words) == 2
    assert "no such file" in shell.err
