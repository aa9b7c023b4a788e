from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import msgspec
import pydicom
import pytest
from pydicom.uid import UID

from dicomnode.dicom.part10 import read_file_meta
from dicomnode.errors import Full, Unavailable
from dicomnode.model.messages import DicomObjectMeta, TransferStatus, encode
from dicomnode.model.representation import Representation, folder_of, form_key
from dicomnode.ports.audit import representations
from dicomnode.services.represent import Represent
from dicomnode.services.transcode import Transcode
from tests.converting import JPEG_2000, MPEG_2, PLAIN, Here, converted, jpeg_2000, pixels_of, taken_in
from tests.corpus import data_set_of, make, part10
from tests.rooms import EMBEDDED, IN_MEMORY, Rooms, open_rooms


@pytest.fixture(params=[IN_MEMORY, EMBEDDED], ids=["memory", "embedded"])
async def rooms(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rooms]:
    async with open_rooms(tmp_path, request.param) as rooms:
        yield rooms


async def _held(rooms: Rooms, meta: DicomObjectMeta) -> set[str]:
    return {stored.key async for stored in rooms.storage.list(folder_of(meta.file_path))}


async def test_an_object_is_kept_as_viewers_show_it_beside_the_original(rooms: Rooms) -> None:
    ds = jpeg_2000()
    meta = await taken_in(rooms, ds)
    before = await rooms.storage.read(meta.file_path)
    async with Transcode() as transcode:
        assert await Represent(rooms.storage, transcode).represent(meta) is TransferStatus.DONE
    assert await rooms.storage.read(meta.file_path) == before
    assert data_set_of(before) == data_set_of(part10(ds, UID(JPEG_2000)))
    (form,) = await representations(rooms.storage, meta.file_path)
    kept = await rooms.storage.read(form.key)
    told = read_file_meta(kept, complete=True)
    assert told is not None
    assert (told.transfer_syntax_uid, told.sop_instance_uid) == (PLAIN, ds.SOPInstanceUID)
    assert (form.size, form.data_set_offset) == (len(kept), told.data_set_offset)
    assert hashlib.sha256(kept[form.data_set_offset :]).hexdigest() == form.sha256
    got = pydicom.dcmread(BytesIO(kept))
    assert bytes(got.PixelData) == pixels_of()
    assert (got.PatientID, got.SOPInstanceUID) == (ds.PatientID, ds.SOPInstanceUID)


async def test_a_second_time_changes_nothing(rooms: Rooms, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path)
    held, transcoder = await _held(rooms, meta), Here(tmp_path)
    assert await Represent(rooms.storage, transcoder).represent(meta) is TransferStatus.DONE
    assert (await _held(rooms, meta), transcoder.made) == (held, 0)
    assert len(held) == 2


@pytest.mark.parametrize("left", [b"", b"half", None], ids=["nothing", "half", "all but the seal"])
async def test_what_a_crash_cut_short_is_made_anew(left: bytes | None, rooms: Rooms, tmp_path: Path) -> None:
    meta, _ = await converted(rooms, tmp_path)
    (form,) = await representations(rooms.storage, meta.file_path)
    whole = await rooms.storage.read(form.key)
    await rooms.storage.delete((form.key, form.seal))
    await rooms.storage.put(form_key(meta.file_path, PLAIN, "0" * 20), (whole if left is None else left,))
    assert await representations(rooms.storage, meta.file_path) == ()
    assert await Represent(rooms.storage, Here(tmp_path)).represent(meta) is TransferStatus.DONE
    (again,) = await representations(rooms.storage, meta.file_path)
    assert await rooms.storage.read(again.key) == whole
    assert await _held(rooms, meta) == {again.key, again.seal}


async def test_two_at_once_leave_one(rooms: Rooms, tmp_path: Path) -> None:
    """One that was thought to be dead, and its successor: whoever comes last takes its own back."""
    meta = await taken_in(rooms, jpeg_2000())
    slow, quick = Here(tmp_path), Here(tmp_path / "other")
    (tmp_path / "other").mkdir()
    slow.pause.clear()
    first = asyncio.create_task(Represent(rooms.storage, slow).represent(meta))
    await asyncio.sleep(0.05)
    assert await Represent(rooms.storage, quick).represent(meta) is TransferStatus.DONE
    slow.pause.set()
    assert await first is TransferStatus.DONE
    assert len(await representations(rooms.storage, meta.file_path)) == 1
    assert len(await _held(rooms, meta)) == 2


async def test_what_cannot_be_decoded_has_failed_for_good(rooms: Rooms) -> None:
    ds = make(PixelData=b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00\x00\x00\x01\xb3")
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    async with Transcode() as transcode:
        represent = Represent(rooms.storage, transcode)
        mpeg = await taken_in(rooms, ds, MPEG_2)
        assert await represent.represent(mpeg) is TransferStatus.FAILED
        ds = jpeg_2000()
        ds.PixelData = ds.PixelData[:20] + bytes(len(ds.PixelData) - 28) + ds.PixelData[-8:]
        broken = await taken_in(rooms, ds)
        assert await represent.represent(broken) is TransferStatus.FAILED
        strange = msgspec.structs.replace(await taken_in(rooms, jpeg_2000()), target_ts=JPEG_2000)
        assert await represent.represent(strange) is TransferStatus.FAILED
    for meta in (mpeg, broken, strange):
        assert await _held(rooms, meta) == set()


async def test_what_is_gone_need_not_be_converted(rooms: Rooms, tmp_path: Path) -> None:
    meta = await taken_in(rooms, jpeg_2000())
    await rooms.storage.delete((meta.file_path,))
    async with Transcode() as transcode:
        assert await Represent(rooms.storage, transcode).represent(meta) is TransferStatus.NOT_NEEDED
    assert await _held(rooms, meta) == set()


async def test_what_goes_meanwhile_leaves_no_form(rooms: Rooms, tmp_path: Path) -> None:
    meta, transcoder = await taken_in(rooms, jpeg_2000()), Here(tmp_path)
    transcoder.pause.clear()
    converting = asyncio.create_task(Represent(rooms.storage, transcoder).represent(meta))
    await asyncio.sleep(0.05)
    await rooms.storage.delete((meta.file_path,))
    transcoder.pause.set()
    assert await converting is TransferStatus.NOT_NEEDED
    assert await _held(rooms, meta) == set()


async def test_an_original_that_lost_its_end_is_told(rooms: Rooms, tmp_path: Path) -> None:
    meta = await taken_in(rooms, jpeg_2000())
    kept = await rooms.storage.read(meta.file_path)
    await rooms.storage.delete((meta.file_path,))
    await rooms.storage.put(meta.file_path, (kept[:-100],))
    assert await Represent(rooms.storage, Here(tmp_path)).represent(meta) is TransferStatus.FAILED


@pytest.mark.parametrize("error", [Unavailable("storage", "away"), Full("storage", "full")])
async def test_a_storage_that_fails_is_not_the_objects_fault(
    error: Exception, rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta, represent = await taken_in(rooms, jpeg_2000()), Represent(rooms.storage, Here(tmp_path))
    put, fails = rooms.storage.put, [1, 2]

    async def failing(key: str, *parts: object) -> int:
        if fails and key.endswith(".dcm") == (fails[0] == 1):
            del fails[0]
            raise error
        return await put(key, *parts)  # type: ignore[arg-type]

    monkeypatch.setattr(rooms.storage, "put", failing)
    for _ in range(2):  # the form cannot be written, then its seal
        with pytest.raises(type(error)):
            await represent.represent(meta)
        assert await representations(rooms.storage, meta.file_path) == ()
    assert await represent.represent(meta) is TransferStatus.DONE
    assert len(await _held(rooms, meta)) == 2


async def test_an_object_of_many_pieces(tmp_path: Path) -> None:
    async with open_rooms(tmp_path) as rooms:
        pixels = os.urandom(5_000_000)
        meta = await taken_in(rooms, make(Rows=2000, Columns=1250, PixelData=pixels), "1.2.840.10008.1.2")
        async with Transcode() as transcode:
            assert await Represent(rooms.storage, transcode).represent(meta) is TransferStatus.DONE
        (form,) = await representations(rooms.storage, meta.file_path)
        assert bytes(pydicom.dcmread(BytesIO(await rooms.storage.read(form.key))).PixelData) == pixels


_CONVERTS = """
import asyncio, sys
from pathlib import Path
from dicomnode.model.messages import decode_object_meta
from dicomnode.services.represent import Represent
from dicomnode.services.transcode import Transcode
from dicomnode_files.storage import FileStorage

async def main():
    meta = decode_object_meta(Path(sys.argv[1]).read_bytes())
    async with FileStorage(FileStorage.Options(), Path(sys.argv[2])) as storage, Transcode() as transcode:
        print("begun", flush=True)
        print(await Represent(storage, transcode).represent(meta), flush=True)

asyncio.run(main())
"""


def _convert(message: Path, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CONVERTS, str(message), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.timeout(180)
async def test_killed_at_any_moment_it_is_whole_or_not_there(tmp_path: Path) -> None:
    pixels = os.urandom(12_000_000)
    async with open_rooms(tmp_path, EMBEDDED) as rooms:
        meta = await taken_in(rooms, make(Rows=3000, Columns=2000, PixelData=pixels), "1.2.840.10008.1.2")
        message = tmp_path / "message.json"
        message.write_bytes(encode(meta))
        seen = set()
        for number in range(4):
            process = await asyncio.to_thread(_convert, message, tmp_path)
            assert process.stdout is not None
            if number < 3:  # at different moments of its writing
                ends = time.monotonic() + 20
                while not await _held(rooms, meta) and time.monotonic() < ends:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.004 * number)
                process.send_signal(signal.SIGKILL)
            told = await asyncio.to_thread(process.stdout.read)
            process.stdout.close()
            process.wait(20)
            forms = await representations(rooms.storage, meta.file_path)
            seen.add(len(forms))
            for form in forms:
                file = await rooms.storage.read(form.key)
                assert bytes(pydicom.dcmread(BytesIO(file)).PixelData) == pixels
        assert told == "Success\n"
        assert 1 in seen
        (form,) = await representations(rooms.storage, meta.file_path)
        assert await _held(rooms, meta) == {form.key, form.seal}


def test_a_form_is_named_by_what_it_is() -> None:
    original = f"default/20260102/1.2/1.3/1.4-{'0' * 20}.dcm"
    form = Representation(form_key(original, PLAIN, "1" * 20), PLAIN, 350, 1000, "ab" * 32)
    assert form.key == f"default/20260102/1.2/1.3/1.4-{'0' * 20}/{PLAIN}-{'1' * 20}.dcm"
    assert form.seal == f"default/20260102/1.2/1.3/1.4-{'0' * 20}/{PLAIN}-{'1' * 20}-350-1000-{'ab' * 32}"


async def test_a_failure_of_the_transcoder_is_handed_on(rooms: Rooms) -> None:
    class Away:
        targets = (PLAIN,)

        async def transcode(self, *_: object) -> object:
            raise Unavailable("transcode", "no process can be started")

    meta = await taken_in(rooms, jpeg_2000())
    with pytest.raises(Unavailable):
        await Represent(rooms.storage, Away()).represent(meta)  # type: ignore[arg-type]
