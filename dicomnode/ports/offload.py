"""What plugins that block use: threads that never hold up the event loop, made lean for many short calls.

A call that was handed in is always carried out. Cancelling who waits for it lets it end first: the cancellation arrives
after it, so that buffers are the caller's again and what was made can be taken back. Results are handed to the loop
many at a time, because waking it is a good part of what a short call costs.

Where calls of one kind have lately been quicker than waking a thread is (a fast disk, a file system in memory), they
are made on the loop itself; `Quickness` watches that this stays true.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, TypeVarTuple, Unpack

_FIRST_OUT, _LAST_OUT, _PROVED = 64, 4096, 256

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Call(asyncio.Future[T]):
    """The result of a call to come. `dropped` tells the thread that nobody waits for it any more."""

    dropped = False

    def cancel(self, msg: Any = None) -> bool:
        """Note that the result is not wanted; asyncio then cancels the waiting task once the call has ended."""
        self.dropped = True
        return False


class Quickness:
    """Whether calls of one kind are quick enough to be made on the loop: below `below_s` on average.

    They are tried there; a call that takes long weighs as much as it took. Where they prove slow the next ones go to
    threads, 64 at first and twice as many each time until they have proved quick again. Zero means never to try.
    """

    __slots__ = ("_below_s", "_left", "_mean_s", "_out", "_proved")

    def __init__(self, below_s: float) -> None:
        self._below_s = below_s
        self._mean_s = below_s / 2
        self._left = 0
        self._out = _FIRST_OUT
        self._proved = 0

    @property
    def likely(self) -> bool:
        """Tell whether the next call would be made on the loop."""
        return self._left == 0 and self._below_s > 0

    def tried(self) -> bool:
        """Tell whether this call is to be made on the loop, and count it."""
        if self._left:
            self._left -= 1
            return False
        return self._below_s > 0

    def timed(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Return `function(*args)`, and take into account how long that took."""
        started = time.perf_counter()
        try:
            return function(*args)
        finally:
            self.took(time.perf_counter() - started)

    def took(self, seconds: float) -> None:
        """Take one more call on the loop into account."""
        self._mean_s += (seconds - self._mean_s) / 16
        if self._mean_s >= self._below_s:
            self._left, self._out = self._out, min(2 * self._out, _LAST_OUT)
            self._mean_s, self._proved = self._below_s / 2, 0
        elif self._proved < _PROVED:
            self._proved += 1
        else:
            self._out = _FIRST_OUT


class _Results:
    """Ended calls on their way to the loop, which is woken once for all that are there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended: deque[tuple[Call[Any], object, BaseException | None]] = deque()
        self._waking = False

    def hand_in(self, ended: Sequence[tuple[Call[Any], object, BaseException | None]]) -> None:
        self._ended.extend(ended)
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._hand_out)
            except RuntimeError:  # the loop is closed: nobody waits
                self._ended.clear()

    def _hand_out(self) -> None:
        self._waking = False  # before emptying: what is put in from now on wakes us again
        ended = self._ended
        while ended:
            call, result, error = ended.popleft()
            if error is None:
                call.set_result(result)
            else:
                call.set_exception(error)
                if call.dropped:
                    call.exception()  # or asyncio would complain that nobody looked at it


class Threads:
    """A fixed number of threads that carry out calls in the order they were handed in, for one event loop."""

    def __init__(self, count: int, name: str) -> None:
        self._waiting: SimpleQueue[tuple[Call[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._results = _Results(self._loop)
        for thread in self._threads:
            thread.start()

    def run(self, function: Callable[[Unpack[Args]], T], *args: *Args) -> Call[T]:
        """Have `function(*args)` called in a thread; await what is returned for its result."""
        call: Call[T] = Call(loop=self._loop)
        self._waiting.put((call, function, args))
        return call

    def run_quickly(self, quickness: Quickness, function: Callable[[Unpack[Args]], T], *args: *Args) -> Call[T]:
        """Have `function(*args)` called: on the loop, at once, where such calls are quick; else as `run`."""
        if not quickness.tried():
            return self.run(function, *args)
        call: Call[T] = Call(loop=self._loop)
        try:
            call.set_result(quickness.timed(function, *args))
        except Exception as error:  # noqa: BLE001 -- it is the caller's, who awaits it
            call.set_exception(error)
        return call

    async def close(self) -> None:
        """Let what was handed in end, and the threads with it."""
        for _ in self._threads:
            self._waiting.put(None)
        await _joined(self._threads)

    def _work(self) -> None:
        take, hand_in = self._waiting.get, self._results.hand_in
        while (work := take()) is not None:
            call, function, args = work
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 -- it is the caller's, who awaits it
                hand_in(((call, None, error),))
            else:
                hand_in(((call, result, None),))
                del result
            del work, call, function, args  # a waiting thread must not keep the last call's buffers alive


class Gatherer:
    """One thread that hands all that is waiting to one function at once (group commit).

    `work(items)` returns one result for each of `items`, in order; a result that is an exception is raised to who
    awaits that item, and what `work` raises is raised to all.
    """

    def __init__(self, work: Callable[[list[Any]], Sequence[object]], name: str) -> None:
        self._function = work
        self._handed_in = 0
        self._carried_out = 0
        self._waiting: SimpleQueue[tuple[Call[Any], Any] | None] = SimpleQueue()
        self._gathered: list[tuple[Call[Any], Any]] = []
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._results = _Results(self._loop)
        self._thread.start()

    def put(self, item: object) -> Call[Any]:
        """Hand in `item`; await what is returned for its result."""
        self._pass_on()
        call: Call[Any] = Call(loop=self._loop)
        self._hand_over(call, item)
        return call

    def put_quickly(self, quickness: Quickness, item: object) -> Call[Any]:
        """Hand in `item`: worked on by the loop where that is quick and nothing is before it; else as `put`.

        The loop does it after all that is ready now, together with what that hands in.
        """
        if not self._gathered:
            if self.is_busy or not quickness.tried():
                return self.put(item)
            self._loop.call_soon(self._work_here, quickness)
        call: Call[Any] = Call(loop=self._loop)
        self._gathered.append((call, item))
        return call

    def _hand_over(self, call: Call[Any], item: object) -> None:
        self._handed_in += 1
        self._waiting.put((call, item))

    def _pass_on(self) -> None:
        """Let the thread do what the loop was to do: it must not come behind what is handed in now."""
        gathered, self._gathered = self._gathered, []
        for call, item in gathered:
            self._hand_over(call, item)

    def _work_here(self, quickness: Quickness) -> None:
        gathered, self._gathered = self._gathered, []
        if not gathered:  # passed on
            return
        try:
            results = quickness.timed(self._function, [item for _, item in gathered])
        except Exception as error:  # noqa: BLE001 -- it is the callers', who await it
            results = [error] * len(gathered)
        for (call, _), result in zip(gathered, results, strict=True):
            if not isinstance(result, BaseException):
                call.set_result(result)
                continue
            call.set_exception(result)
            if call.dropped:
                call.exception()

    @property
    def is_busy(self) -> bool:
        """Tell whether anything that was handed in is still to be worked on."""
        return bool(self._gathered) or self._carried_out != self._handed_in

    async def close(self) -> None:
        """Let what was handed in end, and the thread with it."""
        self._pass_on()
        self._waiting.put(None)
        await _joined([self._thread])

    def _work(self) -> None:
        more = True
        while more:
            work, more = self._gather()
            if work:
                self._carry_out(work)

    def _gather(self) -> tuple[list[tuple[Call[Any], Any]], bool]:
        """Wait for an item; return all that are there, and whether more may come."""
        work: list[tuple[Call[Any], Any]] = []
        pair = self._waiting.get()
        try:
            while pair is not None:
                work.append(pair)
                pair = self._waiting.get_nowait()
        except Empty:
            return work, True
        return work, False

    def _carry_out(self, work: list[tuple[Call[Any], Any]]) -> None:
        try:
            results = self._function([item for _, item in work])
        except BaseException as error:  # noqa: BLE001 -- it is the callers', who await it
            self._results.hand_in([(call, None, error) for call, _ in work])
        else:
            self._results.hand_in([_ended(call, result) for (call, _), result in zip(work, results, strict=True)])
        self._carried_out += len(work)


def _ended(call: Call[Any], result: object) -> tuple[Call[Any], object, BaseException | None]:
    return (call, None, result) if isinstance(result, BaseException) else (call, result, None)


async def _joined(threads: Sequence[threading.Thread]) -> None:
    started = [thread for thread in threads if thread.ident is not None]
    if started:
        await asyncio.to_thread(_join, started)


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
