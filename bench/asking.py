"""C-FIND, C-GET and C-MOVE by dcmtk's findscu, getscu and movescu. Each answer is counted.

What comes is received and thrown away (`--ignore`): else the receiving program, which writes a file for each object,
would be most of the time.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from pydicom.dataset import Dataset

from bench.data import ObjectSet
from bench.processes import Failed, Process, answers

MOVE_AET = "BENCH"
QUESTIONS = 5  # asked over one association, so that the program's start weighs less
_ENVIRON = os.environ | {"TCP_NODELAY": "1"}
_COMPLETED = re.compile(rb"Completed Suboperations +: (\d+)")


def find(objects: ObjectSet, port: int, folder: Path) -> float:
    """Ask for all instances, series by series, `QUESTIONS` times; return the seconds. Raises: Failed."""
    files = [str(path) for path in _questions(objects, folder)]
    command = ["findscu", "-S", "-to", "120", "127.0.0.1", str(port)]
    said = _run([*command[:1], "-v", *command[1:], *files])[0]
    _expect(said.count(b"(Pending)"), len(objects.instances), "matches")
    return _run([*command[:1], "-q", *command[1:], *files * QUESTIONS])[1]


def get(objects: ObjectSet, port: int) -> float:
    """Fetch the study by C-GET twice; return the seconds of the second time, when it is cached. Raises: Failed."""
    words = ["--ignore", "-S", *_study(objects), "127.0.0.1", str(port)]
    said, _ = _run(["getscu", "-v", *words])
    _expect(_completed(said), len(objects.instances), "objects")
    return _run(["getscu", *words])[1]


def move(objects: ObjectSet, port: int, move_port: int, folder: Path) -> float:
    """Have the study sent to storescp by C-MOVE; return the seconds. Raises: Failed."""
    scp = folder / "destination"
    scp.mkdir()
    with Process(["storescp", "--ignore", str(move_port)], scp, _ENVIRON) as destination:
        destination.wait_for(lambda: answers(move_port), "open door")
        words = ["movescu", "-d", "-S", "-aem", MOVE_AET, *_study(objects), "127.0.0.1", str(port)]
        said, seconds = _run(words)
    _expect(_completed(said), len(objects.instances), "objects")
    return seconds


def _questions(objects: ObjectSet, folder: Path) -> list[Path]:
    """Write a question for the instances of each series; return the files."""
    paths: list[Path] = []
    for study_uid, series_uid in dict.fromkeys((one.study_uid, one.series_uid) for one in objects.instances):
        ds = Dataset()
        ds.QueryRetrieveLevel = "IMAGE"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.SOPInstanceUID = ds.InstanceNumber = None
        path = folder / f"question-{len(paths)}"
        ds.save_as(path, implicit_vr=True, little_endian=True)
        paths.append(path)
    return paths


def _study(objects: ObjectSet) -> list[str]:
    return ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={objects.instances[0].study_uid}"]


def _run(words: Sequence[str]) -> tuple[bytes, float]:
    began = perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=_ENVIRON)
    seconds = perf_counter() - began
    if done.returncode:
        raise Failed(f"{words[0]}: {done.stdout.decode(errors='replace').strip()[-200:]}")
    return done.stdout, seconds


def _completed(said: bytes) -> int:
    return max((int(count) for count in _COMPLETED.findall(said)), default=0)


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise Failed(f"{found} {what}, {wanted} wanted")
