"""The process in which pixel data is decoded: hostile bytes may use it up or crash it, and nothing else.

A job is a line of JSON on standard input, its outcome one on standard output. `services/transcode` starts it.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import sys
from pathlib import Path
from typing import IO

import msgspec

from dicomnode.dicom.transcode import transcode
from dicomnode.errors import NodeError


class Job(msgspec.Struct, frozen=True):
    """A data set to be transcoded, and how much memory, processor time and disk that may take."""

    source: str
    offset: int
    source_uid: str
    target: str
    target_uid: str
    memory_bytes: int
    cpu_s: int
    result_bytes: int


class Outcome(msgspec.Struct, frozen=True):
    """What became of a job: `problem` is "" where it is done; `transient`: it may go well later."""

    problem: str = ""
    transient: bool = False


def main() -> int:
    """Do one job after the other, until there are no more."""
    # The codecs, in C, print what they think of an object; nobody is to see that, least of all in the protocol.
    outcomes = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jobs = sys.stdin.buffer
    while line := jobs.readline():
        _answer(outcomes, _outcome(msgspec.json.decode(line, type=Job)))
        gc.collect()
    return 0


def _answer(outcomes: IO[bytes], outcome: Outcome) -> None:
    outcomes.write(msgspec.json.encode(outcome) + b"\n")
    outcomes.flush()


def _outcome(job: Job) -> Outcome:
    _limit(job)
    try:
        transcode(Path(job.source), job.offset, job.source_uid, Path(job.target), job.target_uid)
    except NodeError as error:
        return Outcome(str(error))
    except MemoryError:
        return Outcome("it would take more memory than is allowed")
    except OSError as error:
        return Outcome(f"the result cannot be written: {error.strerror}", error.errno == errno.ENOSPC)
    return Outcome()


def _limit(job: Job) -> None:
    """Let the process have so much, from now on. Past its processor time it is killed."""
    # The source is mapped into memory, and so counts, though it takes none.
    memory = job.memory_bytes + os.path.getsize(job.source)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + job.cpu_s + 1
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, job.result_bytes),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
