"""What the disk itself gives: write + fdatasync of as many files of the same size, and nothing else."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from bench.data import ObjectSet


def write_all(objects: ObjectSet, folder: Path, threads: int) -> float:
    """Write and sync a file for each of `objects`, on `threads` threads; return the wall seconds.

    The bytes are one object's, in memory beforehand. Python drops its lock while it writes and syncs.
    """
    content = Path(objects.instances[0].path).read_bytes()
    shares = [range(first, len(objects.instances), threads) for first in range(threads)]
    began = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda share: _write(folder, share, content), shares):
            pass
    return perf_counter() - began


def _write(folder: Path, numbers: range, content: bytes) -> None:
    for number in numbers:
        file = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, content)
            os.fdatasync(file)
        finally:
            os.close(file)
