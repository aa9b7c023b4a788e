from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import structlog
from pydicom.encaps import generate_fragments
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicomnode.config import LimitsTable, PeerTable, StoreScpTable
from dicomnode.dicom.digest import Digest
from dicomnode.dicom.part10 import write_file_meta
from dicomnode.dimse.outgoing import Outgoing
from dicomnode.dimse.retry import ONCE
from dicomnode.dimse.sender import Sending, Sent, store_files
from dicomnode.errors import (
    BadInstance,
    ConfigError,
    Corrupt,
    Full,
    Mismatch,
    NodeError,
    NotFound,
    Refused,
    Unavailable,
)
from dicomnode.model.instance import Arrival, Door, Stored
from dicomnode.ports.storage import Buffer
from dicomnode.roles.storescp.identity import Identities
from dicomnode.roles.storescp.role import StoreScp
from dicomnode.services.watermark import Watermark
from tests.corpus import corpus_files, data_set_of, identified, make, needs_corpus, part10


class Kept:
    """Takes everything in, or raises `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.arrivals: list[Arrival] = []
        self.data: list[bytes] = []
        self.streamed = 0

    async def store(self, arrival: Arrival, data_set: Buffer, digest: Digest | None = None) -> Stored:
        return self._keep(arrival, bytes(data_set))

    async def store_stream(self, arrival: Arrival, first: Buffer, rest: AsyncIterator[Buffer]) -> Stored:
        self.streamed += 1
        return self._keep(arrival, bytes(first) + b"".join([bytes(chunk) async for chunk in rest]))

    def _keep(self, arrival: Arrival, data: bytes) -> Stored:
        if self.error is not None:
            raise self.error
        self.arrivals.append(arrival)
        self.data.append(data)
        return Stored("key", arrival.sop_class_uid, arrival.sop_instance_uid, "1", "2", len(data))


@asynccontextmanager
async def door(
    kept: Kept | None = None,
    peers: Mapping[str, PeerTable] | None = None,
    *,
    identities: Identities | None = None,
    watermark: Watermark | None = None,
    **settings: Any,
) -> AsyncIterator[StoreScp]:
    settings.setdefault("limits", LimitsTable(drain_s=1))
    table = StoreScpTable(port=0, **settings)
    role = StoreScp(table, peers or {}, "hospital", kept or Kept(), identities=identities, watermark=watermark)
    async with role:
        running = asyncio.create_task(role.run())
        try:
            yield role
        finally:
            running.cancel()
            await asyncio.wait([running])


async def program(name: str, *arguments: object, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program of dcmtk; return its exit code and what it said."""
    path = shutil.which(name)
    assert path is not None
    process = await asyncio.create_subprocess_exec(
        path,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


def _write(folder: Path, count: int = 1, **attributes: Any) -> list[Path]:
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path in paths:
        path.write_bytes(part10(make(**attributes)))
    return paths


async def _send(
    role: StoreScp, paths: list[Path], calling: str = "ME", called: str = "DICOMNODE"
) -> list[Sent[Outgoing]]:
    results: list[Sent[Outgoing]] = []
    await store_files(PeerTable(called, *role.endpoint), calling, paths, results.append, Sending(retry=ONCE))
    return results


async def test_an_object_is_handed_to_ingest_with_what_the_door_knows(tmp_path: Path) -> None:
    [path] = _write(tmp_path)
    kept = Kept()
    async with door(kept) as role:
        assert [result.status for result in await _send(role, [path], "MODALITY")] == [0]
    ds = pydicom.dcmread(path)
    assert kept.data == [data_set_of(path.read_bytes())]
    assert kept.arrivals == [
        Arrival(
            "hospital",
            Door.STORESCP,
            ExplicitVRLittleEndian,
            CTImageStorage,
            ds.SOPInstanceUID,
            source_aet="MODALITY",
            source_ip="127.0.0.1",
        )
    ]


async def test_a_large_object_is_streamed(tmp_path: Path) -> None:
    [path] = _write(tmp_path, PixelData=os.urandom(3_000_000))
    kept = Kept()
    async with door(kept, limits=LimitsTable(held_in_memory=1_000_000, drain_s=1)) as role:
        assert [result.status for result in await _send(role, [path])] == [0]
    assert kept.streamed == 1
    assert kept.data == [data_set_of(path.read_bytes())]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadInstance("x"), 0xC000),
        (Mismatch("x"), 0xA900),
        (Refused("x"), 0x0124),
        (Full("files"), 0xA700),
        (Unavailable("files"), 0xA700),
        (Corrupt("files"), 0xC000),
        (NotFound("x"), 0x0110),
        (NodeError("x"), 0x0110),
        (ValueError("a bug"), 0x0110),
    ],
)
@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_what_went_wrong_is_told_by_the_table(tmp_path: Path, error: Exception, status: int, size: int) -> None:
    paths = _write(tmp_path, 2, PixelData=bytes(size))
    async with door(Kept(error), limits=LimitsTable(held_in_memory=1_000_000, drain_s=1)) as role:
        assert [result.status for result in await _send(role, paths)] == [status, status]


async def _admitted(role: StoreScp, tmp_path: Path, calling: str = "ME", called: str = "DICOMNODE") -> str:
    [result] = await _send(role, _write(tmp_path), calling, called)
    return result.problem


@pytest.mark.parametrize("accept", [True, None])
async def test_unknown_peers_of_this_machine_are_served(tmp_path: Path, accept: bool | None) -> None:
    async with door(accept_unknown_peers=accept) as role:
        assert await _admitted(role, tmp_path) == ""


async def test_unknown_peers_are_refused_where_only_known_ones_are_served(tmp_path: Path) -> None:
    peers = {"ct": PeerTable("CT1", "localhost", 104), "mr": PeerTable("MR1", "192.0.2.7", 104)}
    async with door(peers=peers, accept_unknown_peers=False) as role:
        assert await _admitted(role, tmp_path, "CT1") == ""
        for stranger in ("CT2", "MR1"):  # a wrong title, and a known one from a wrong host
            assert "calling AE title not recognised" in await _admitted(role, tmp_path, stranger)


async def test_the_called_title_is_checked_when_asked_for(tmp_path: Path) -> None:
    async with door(any_called_ae_title=False, ae_title="ARCHIVE") as role:
        assert await _admitted(role, tmp_path, called="ARCHIVE") == ""
        assert "called AE title not recognised" in await _admitted(role, tmp_path, called="OTHER")


async def test_the_address_is_what_a_peer_would_be_told() -> None:
    async with door(ae_title="ARCHIVE") as role:
        assert role.address == f"ARCHIVE@127.0.0.1:{role.endpoint[1]}"
        assert role.endpoint[1] != 0


async def test_a_port_in_use_is_an_error_of_the_configuration() -> None:
    async with door() as role:
        second = StoreScp(StoreScpTable(port=role.endpoint[1]), {}, "default", Kept())
        with pytest.raises(ConfigError, match=r"storescp\.port: .*in use by another program.*--set storescp.port"):
            await second.__aenter__()


async def test_refusals_and_ends_are_logged_without_a_word_of_the_patient(tmp_path: Path) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as events:
        async with door(Kept(ValueError("Canary^Patient")), accept_unknown_peers=False) as role:
            await _admitted(role, tmp_path, "STRANGER")
        async with door() as role:
            await _admitted(role, tmp_path, "MODALITY")
    rejected = next(event for event in events if event["event"] == "association.rejected")
    assert (rejected["calling_aet"], rejected["reason"]) == ("STRANGER", "a peer that is not known")
    accepted = next(event for event in events if event["event"] == "association.accepted")
    assert (accepted["calling_aet"], accepted["log_level"]) == ("MODALITY", "debug")
    assert len(accepted["association"]) == 8
    assert not any("Doe" in str(value) for event in events for value in event.values())


async def test_pynetdicom_stores_and_echoes() -> None:
    ds = make()
    part10(ds)
    kept = Kept()

    def talk(port: int) -> list[int]:
        ae = AE()
        ae.add_requested_context("1.2.840.10008.1.1")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", port, max_pdu=1234)
        assert association.is_established
        statuses = [association.send_c_echo().Status, association.send_c_store(ds).Status]
        association.release()
        assert association.is_released
        return statuses

    async with door(kept) as role:
        assert await asyncio.to_thread(talk, role.endpoint[1]) == [0, 0]
    assert len(kept.data) == 1


@pytest.mark.external("echoscu")
async def test_echoscu_is_answered() -> None:
    async with door() as role:
        code, said = await program("echoscu", "-v", "--repeat", 3, *role.endpoint)
    assert (code, said.count("Received Echo Response (Success)")) == (0, 3)


@pytest.mark.external("echoscu")
@pytest.mark.parametrize("options", [["--abort"], ["-pts", "38"], ["-ppc", "128"]])
async def test_echoscu_asks_for_much_and_leaves_as_it_likes(options: list[str]) -> None:
    async with door() as role:
        assert (await program("echoscu", *options, *role.endpoint))[0] == 0
        assert (await program("echoscu", *role.endpoint))[0] == 0


@pytest.mark.external("storescu")
@pytest.mark.parametrize("options", [[], ["--max-send-pdu", "4096"], ["--abort"], ["-x="], ["-xi"]])
async def test_storescu_sends_a_folder(tmp_path: Path, options: list[str]) -> None:
    paths = _write(tmp_path, 30, Rows=70, Columns=70, PixelData=os.urandom(9800))
    kept = Kept()
    async with door(kept) as role:
        code, said = await program("storescu", *options, *role.endpoint, "+sd", tmp_path)
    assert code == 0, said
    assert sorted(arrival.sop_instance_uid for arrival in kept.arrivals) == sorted(
        pydicom.dcmread(path).SOPInstanceUID for path in paths
    )


@pytest.mark.external("storescu")
async def test_the_socket_answers_a_sender_with_nagles_algorithm_at_once(tmp_path: Path) -> None:
    if not hasattr(socket, "TCP_QUICKACK"):
        pytest.skip("quick acknowledgements were not tested: this system has no TCP_QUICKACK")
    seen: list[tuple[int, int]] = []

    class Looking(Kept):
        async def store(self, arrival: Arrival, data_set: Buffer, digest: Digest | None = None) -> Stored:
            for acceptor in role._listener._sockets:
                own = acceptor.layer._socket
                assert own is not None
                seen.append(
                    (
                        own.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK),
                        own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                    )
                )
            return await super().store(arrival, data_set)

    _write(tmp_path, 5)
    async with door(Looking()) as role:
        code, said = await program("storescu", *role.endpoint, "+sd", tmp_path)
    assert code == 0, said
    assert seen == [(1, 1)] * 5


@needs_corpus
@pytest.mark.external("dcmsend")
async def test_dcmsend_sends_every_transfer_syntax_and_nothing_changes() -> None:
    paths = [path for path in corpus_files("transfer-syntaxes") if identified(path) is not None]
    kept = Kept()
    async with door(kept) as role:
        code, said = await program("dcmsend", "--decompress-never", *role.endpoint, *paths)
    assert code == 0, said
    sent = {(str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID)): ds for ds in map(pydicom.dcmread, paths)}
    assert {arrival.sop_instance_uid for arrival in kept.arrivals} == {uid for uid, _ in sent}
    for arrival, data in zip(kept.arrivals, kept.data, strict=True):
        names = (arrival.sop_class_uid, arrival.sop_instance_uid, arrival.transfer_syntax_uid)
        got = pydicom.dcmread(BytesIO(write_file_meta(*names) + data))
        told = sent[arrival.sop_instance_uid, arrival.transfer_syntax_uid]
        assert _pixels(got) == _pixels(told), names
        # dcmtk leaves group lengths and trailing padding out.
        assert [e.tag for e in got] == [e.tag for e in told if e.tag.element and e.tag != 0xFFFCFFFC], names


def _pixels(ds: pydicom.Dataset) -> list[bytes]:
    """Return the fragments of the pixel data, without the padding that dcmtk adds to odd ones."""
    value = ds.get("PixelData", b"")
    if not value or not ds["PixelData"].is_undefined_length:
        return [value]
    return [fragment.rstrip(b"\0") for fragment in generate_fragments(value)]


@needs_corpus
async def test_our_own_sender_sends_every_real_object_byte_for_byte() -> None:
    paths = {path: data_set_of(path.read_bytes()) for path in corpus_files("transfer-syntaxes") if identified(path)}
    kept = Kept()
    async with door(kept) as role:
        results = await _send(role, list(paths))
    assert all(result.is_stored for result in results)
    # Fragments are even (PS3.8 annex E.1): behind a data set of odd length comes a NUL.
    assert sorted(kept.data) == sorted(data + b"\0" * (len(data) % 2) for data in paths.values())


@pytest.mark.external("storescu")
async def test_stopping_answers_what_is_at_hand(tmp_path: Path) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    class Slow(Kept):
        async def store(self, arrival: Arrival, data_set: Buffer, digest: Digest | None = None) -> Stored:
            begun.set()
            await gate.wait()
            return await super().store(arrival, data_set)

    kept = Slow()
    _write(tmp_path, 20)
    role = StoreScp(StoreScpTable(port=0, limits=LimitsTable(drain_s=20)), {}, "default", kept)
    async with role:
        running = asyncio.create_task(role.run())
        sending = asyncio.create_task(program("storescu", "-v", *role.endpoint, "+sd", tmp_path))
        await begun.wait()
        running.cancel()
        await asyncio.sleep(0.05)
        assert not running.done()
        gate.set()
        await asyncio.wait([running])
    code, said = await sending
    assert code != 0
    assert said.count("Received Store Response (Success)") == len(kept.data) == 1
