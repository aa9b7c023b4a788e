"""C-STORE by dcmtk's storescu: one process is one association."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from time import perf_counter

from bench.data import SHARDS, ObjectSet
from bench.processes import Failed

_TIMEOUT_S = 300.0


def send(objects: ObjectSet, port: int, associations: int, nodelay: bool = True) -> float:
    """Send all of `objects`; return the wall seconds from the first sender's start to the last one's end.

    `nodelay` False leaves storescu as Debian ships it, with Nagle's algorithm on. Raises: Failed.
    """
    root = Path(objects.folder)
    folders = [root] if associations == 1 else [root / str(shard) for shard in range(SHARDS)]
    environ = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    if nodelay:
        environ["TCP_NODELAY"] = "1"
    began = perf_counter()
    children = [_start(folder, port, environ) for folder in folders]
    try:
        for child in children:
            _finish(child)
    finally:
        for child in children:
            child.kill()
            child.wait()
    return perf_counter() - began


def _start(folder: Path, port: int, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    argv = ["storescu", "+sd", "+r", "-R", "-nh", "-aec", "DICOMNODE", "127.0.0.1", str(port), str(folder)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ)


def _finish(child: subprocess.Popen[bytes]) -> None:
    try:
        _, words = child.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"storescu had not ended after {_TIMEOUT_S:.0f} s") from None
    if child.returncode or words:
        raise Failed(f"storescu ended with {child.returncode}: {words.decode(errors='replace').strip()[-200:]}")
