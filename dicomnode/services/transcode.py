"""Give an object another transfer syntax, in a process of its own: decoders meet hostile data."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.dimse.outgoing import Opened, Outgoing, Sendable, open_file
from dicomnode.errors import BadInstance, Unavailable

_WORKER = "dicomnode.services.transcode_worker"
_GIB = 1024 * 1024 * 1024


class TranscodeLimits(msgspec.Struct, frozen=True):
    """What transcoding one object may take: bytes of memory and of disk, seconds of the processor and of the clock.

    `processes`: how many objects are transcoded at a time. `idle_s`: how long an idle process is kept.
    """

    processes: int = 2
    memory_bytes: int = 2 * _GIB
    result_bytes: int = 4 * _GIB
    cpu_s: int = 300
    wall_s: float = 600.0
    idle_s: float = 60.0


_LIMITS = TranscodeLimits()


class Transcode:
    """Transcodes objects. Its processes start when they are needed and end with its context, or when idle.

    `targets` are what is made of an object whose transfer syntax a peer refuses, the best first.
    """

    def __init__(
        self,
        limits: TranscodeLimits = _LIMITS,
        targets: Sequence[str] = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
        folder: Path | None = None,
    ) -> None:
        self.targets = tuple(targets)
        self._limits = limits
        self._parent = folder
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._idle: list[_Worker] = []
        self._ending: set[asyncio.Future[None]] = set()
        self._slots = asyncio.Semaphore(max(1, limits.processes))
        self._number = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._idle:
            await self._idle.pop().end()
        await asyncio.gather(*self._ending)
        if self._folder is not None:
            await asyncio.to_thread(self._folder.cleanup)

    async def transcode(self, sendable: Sendable, transfer_syntax_uid: str) -> Opened:
        """Return the data set of the object in that transfer syntax. The object itself is read, not changed.

        Raises: BadInstance, where it cannot be decoded or takes more than is allowed; Unavailable, where there is no
            room or no process for it; what `sendable.open` raises.
        """
        async with self._slots:
            names = self._names()
            try:
                source, offset = await _spooled(sendable, names[0])
                await self._work(source, offset, sendable.transfer_syntax_uid, names[1], transfer_syntax_uid)
                # Opened, it stays until it is closed, though its name is gone.
                return await asyncio.to_thread(open_file, names[1], 0, transfer_syntax_uid)
            finally:
                await asyncio.to_thread(_unlink, names)

    # Its own.

    def _names(self) -> tuple[Path, Path, Path]:
        if self._folder is None:
            try:
                self._folder = tempfile.TemporaryDirectory(prefix="dicomnode-", dir=self._parent)
            except OSError as error:
                raise Unavailable("transcode", f"no folder for what is under way: {error.strerror}") from error
        self._number += 1
        name = Path(self._folder.name, str(self._number))
        return name.with_suffix(".in"), name.with_suffix(".out"), name.with_suffix(".out.inflated")

    async def _work(self, source: Path, offset: int, source_uid: str, target: Path, target_uid: str) -> None:
        limits = self._limits
        job = {
            "source": str(source), "offset": offset, "source_uid": source_uid, "target": str(target),
            "target_uid": target_uid, "memory_bytes": limits.memory_bytes, "cpu_s": limits.cpu_s,
            "result_bytes": limits.result_bytes,
        }  # fmt: skip
        async with self._worker() as worker:
            try:
                async with asyncio.timeout(limits.wall_s):
                    problem, transient = await worker.do(msgspec.json.encode(job))
            except TimeoutError:
                problem, transient = f"decoding took more than {limits.wall_s:g} s", False
        if problem:
            raise Unavailable("transcode", problem) if transient else BadInstance(problem)

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[_Worker]:
        worker = self._idle.pop() if self._idle else await _Worker.start()
        worker.keep()
        try:
            yield worker
        finally:
            if worker.busy or worker.over:
                await worker.end()
            else:
                self._idle.append(worker)
                worker.leave(self._limits.idle_s, self._forget)

    def _forget(self, worker: _Worker) -> None:
        self._idle.remove(worker)
        ending = asyncio.ensure_future(worker.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


class _Worker:
    """One process. `busy`: it has not answered; it is then of no more use."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._timer: asyncio.TimerHandle | None = None
        self.busy = False
        self.over = False

    @classmethod
    async def start(cls) -> Self:
        """Start a process. Raises: Unavailable."""
        # One thread each: the threads of linear algebra, which nobody needs here, would count as memory.
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable, "-m", _WORKER,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env=env, start_new_session=True,
            )
        )  # fmt: skip
        try:
            return cls(await asyncio.shield(starting))
        except OSError as error:
            raise Unavailable("transcode", f"no process can be started: {error.strerror}") from error
        except asyncio.CancelledError:
            await cls(await starting).end()
            raise

    async def do(self, job: bytes) -> tuple[str, bool]:
        """Return what was wrong with the job, "" for nothing, and whether it may go well later."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.busy = True
        try:
            self._process.stdin.write(job + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        except (ConnectionError, ValueError):
            line = b""
        if not line.endswith(b"\n"):
            self.over = True
            return "decoding it crashed or took more time than is allowed", False
        self.busy = False
        outcome = msgspec.json.decode(line)
        return str(outcome["problem"]), bool(outcome["transient"])

    def keep(self) -> None:
        """Cancel what `leave` planned."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self, seconds: float, forget: Callable[[_Worker], None]) -> None:
        """Have it forgotten after so long without a job."""
        self._timer = asyncio.get_running_loop().call_later(seconds, forget, self)

    async def end(self) -> None:
        """End it now."""
        self.keep()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def _spooled(sendable: Sendable, path: Path) -> tuple[Path, int]:
    """Return the file that holds the object and where its data set begins: its own, or `path`, written for that."""
    if isinstance(sendable, Outgoing):
        return sendable.path, sendable.data_set_offset
    opened = await sendable.open()
    try:
        with await asyncio.to_thread(path.open, "wb") as file:
            await asyncio.to_thread(file.write, opened.first)
            if opened.rest is not None:
                async for chunk in opened.rest:
                    await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise Unavailable("transcode", f"no room for what is under way: {error.strerror}") from error
    finally:
        await opened.close()
    return path, 0


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
