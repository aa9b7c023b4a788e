from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dicomnode import metrics
from dicomnode.services import watermark
from dicomnode.services.watermark import Watermark
from dicomnode_files.storage import FileStorage
from dicomnode_files.storage import Options as FileOptions
from dicomnode_memory.storage import MemoryStorage, Options


async def test_a_change_is_told_once_and_room_is_enough_only_with_some_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with MemoryStorage(Options(capacity_bytes=10_000), tmp_path) as storage:
        mark = Watermark(storage, 4000)
        seen = []
        for number in range(5):
            await mark.look()
            await mark.look()
            seen.append(mark.low)
            await storage.put(f"k{number}", [bytes(1900)])
        assert seen == [False, False, False, False, True]
        assert metrics.STORAGE_LOW._value.get() == 1
        assert metrics.STORAGE_FREE._value.get() == 10_000 - 4 * 1900
        await storage.delete(["k0"])
        await storage.put("half", [bytes(1850)])
        await mark.look()
        assert mark.low  # 2,350 are free
        await storage.delete(["k1", "k2"])
        await mark.look()
        assert not mark.low
        assert metrics.STORAGE_LOW._value.get() == 0
    told = capsys.readouterr().out
    assert (told.count("storage.low"), told.count("storage.recovered")) == (1, 1)


async def test_without_a_mark_there_is_always_room(tmp_path: Path) -> None:
    async with MemoryStorage(Options(capacity_bytes=0), tmp_path) as storage:
        mark = Watermark(storage, 0)
        await mark.look()
        assert not mark.low
        await asyncio.wait_for(mark.watch(), 20)  # nothing to watch


async def test_it_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark, "_EVERY_S", 0.01)
    async with MemoryStorage(Options(capacity_bytes=1000), tmp_path) as storage:
        mark = Watermark(storage, 500)
        watching = asyncio.create_task(mark.watch())
        await storage.put("k", [bytes(900)])
        async with asyncio.timeout(20):
            while not mark.low:
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait([watching])


async def test_files_tell_what_the_file_system_has_but_for_the_reserve(tmp_path: Path) -> None:
    async with FileStorage(FileOptions(reserve_bytes=0), tmp_path) as files:
        free = await files.free_bytes()
    assert free > 0
    async with FileStorage(FileOptions(reserve_bytes=2**62), tmp_path) as files:
        assert await files.free_bytes() == 0
        mark = Watermark(files, 1)
        await mark.look()
        assert mark.low
