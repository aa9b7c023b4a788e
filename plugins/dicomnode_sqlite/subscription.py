"""One group's view of one topic, on the event loop: what is ready, what is taken, and who waits for it to be done.

Messages stay in memory from publish to acknowledgement as long as they are few. Behind a bound only their positions
are kept (8 bytes each) and they are read back from the file when they are due.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence

from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Delivery, Message, Subscription
from dicomnode_sqlite.journal import Ack, Group, Kept, Order, Read

READY_MESSAGES = 2000
READY_BYTES = 32 * 1024 * 1024

Ordering = Callable[[Order], Awaitable[object]]


class SqliteSubscription(Subscription):
    """The only subscription of its group; one `take` at a time.

    Every message published to it has a number, in the order of publishing: `_unacked` and then `_cold` hold them so.
    Those between the positions of `doubtful`, and up to the second what came with bytes, an earlier process has left.
    """

    def __init__(self, topic: str, seen_to: int, doubtful: tuple[int, int], order: Ordering) -> None:
        self._topic = topic
        self._seen_to = seen_to
        self._sure, self._left = doubtful
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Delivery] = deque()
        self._ready_bytes = 0
        self._unacked: OrderedDict[int, int] = OrderedDict()
        self._cold = array("q")
        self._number = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._taker: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._most = 0
        self._linger_s = 0.0
        self._group: Group | None = None
        self._closed = ""

    def begin(self, group: Group, waiting: Sequence[int], held: Collection[int]) -> None:
        """Put what `waiting` in the file before all that came in since; `held` will come by itself."""
        here = set(self._cold)
        older = [position for position in waiting if position not in here and position not in held]
        self._cold = array("q", older) + self._cold
        self._number = len(self._cold)
        self._group = group
        self._wake()

    def end(self, reason: str) -> None:
        """Give nothing more; whoever waits is told `reason`."""
        self._closed = reason
        if self._taker and not self._taker.done():
            self._taker.set_result(None)
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def arrived(self, deliveries: Sequence[Delivery]) -> None:
        """Take in what was published."""
        for delivery in deliveries:
            self._number += 1
            if self._group is None or self._cold or self._is_full():
                self._cold.append(delivery.position)
            else:
                self._have(delivery, self._number)
        self._wake()

    def _is_full(self) -> bool:
        return len(self._ready) >= READY_MESSAGES or self._ready_bytes >= READY_BYTES

    def _have(self, delivery: Delivery, number: int) -> None:
        self._ready.append(delivery)
        self._ready_bytes += len(delivery.message.body)
        self._unacked[delivery.position] = number

    async def take(self, most: int, linger_s: float = 0.0) -> Sequence[Delivery]:
        """Wait for a message, then up to `linger_s` for more, but not while someone waits; return 1 to `most`."""
        if most < 1 or self._taker is not None:
            raise ValueError("take at least one message, and one take at a time")
        lingered = False
        while not self._closed:
            if self._cold and len(self._ready) < most and not self._is_full():
                await self._read_back()
            if len(self._ready) >= most or (self._ready and (lingered or linger_s <= 0 or self._cold or self._waiters)):
                return self._pop(most)
            await self._arrival(most, linger_s)
            lingered = True
        raise Unavailable("sqlite", self._closed)

    def _pop(self, most: int) -> list[Delivery]:
        ready = self._ready
        taken = [ready.popleft() for _ in range(min(most, len(ready)))]
        self._ready_bytes -= sum(len(delivery.message.body) for delivery in taken)
        return taken

    async def _arrival(self, most: int, linger_s: float) -> None:
        """Wait, and be woken once: not for each message but when a batch is due."""
        self._most, self._linger_s = most, linger_s
        self._taker = self._loop.create_future()
        self._wake()
        try:
            await self._taker
        finally:
            self._taker = None
            if self._timer:
                self._timer.cancel()
                self._timer = None

    def _wake(self) -> None:
        taker = self._taker
        if taker is None or taker.done() or not (self._ready or self._cold):
            return
        if self._cold or self._waiters or self._linger_s <= 0 or len(self._ready) >= self._most:
            taker.set_result(None)
        elif self._timer is None:
            self._timer = self._loop.call_later(self._linger_s, self._lapse)

    def _lapse(self) -> None:
        if self._taker and not self._taker.done():
            self._taker.set_result(None)

    async def _read_back(self) -> None:
        group = self._group
        assert group is not None
        some = self._cold[:READY_MESSAGES].tolist()
        rows = await self._order(Read(group, some))
        assert isinstance(rows, list)
        found: dict[int, Kept] = {row[0]: row for row in rows}
        first = self._number - len(self._cold) + 1
        used = 0
        for position in some:  # as published, which beside effects of different length is not as numbered
            if self._ready and self._is_full():
                break
            if position in found:
                _, key, body, _, laden = found[position]
                message = Message(self._topic, key, body)
                again, doubtful = position <= self._seen_to, position <= self._left and (laden or position > self._sure)
                self._have(Delivery(message, position, again, bool(laden), bool(doubtful)), first + used)
            used += 1
        del self._cold[:used]
        self._settle()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Never deliver these to the group again. Who waits for them goes on before that is in the file."""
        if not deliveries:
            return
        group = self._group
        assert group is not None
        positions = [delivery.position for delivery in deliveries]
        for position in positions:
            self._unacked.pop(position, None)
        self._settle()
        await self._order(Ack(group, positions))

    def is_settled(self) -> bool:
        """Tell whether all that was published to the group is acknowledged."""
        return not (self._unacked or self._cold) or self._group is None

    async def settled(self) -> None:
        """Return when all that was published to the group until now is acknowledged."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((self._number, waiter))
        self._wake()
        try:
            await waiter
        finally:
            self._waiters = [pair for pair in self._waiters if pair[1] is not waiter]

    def _settle(self) -> None:
        if not self._waiters:
            return
        lowest = self._lowest()
        for number, waiter in self._waiters:
            if number < lowest and not waiter.done():
                waiter.set_result(None)

    def _lowest(self) -> int:
        """Return the number of the first message that is not acknowledged."""
        for number in self._unacked.values():
            return number
        return self._number - len(self._cold) + 1

    @property
    def waiting(self) -> int:
        """How many messages are not acknowledged."""
        return len(self._unacked) + len(self._cold)

    def behind(self) -> tuple[int, int]:
        """Return how many messages are not acknowledged, and the position of the first."""
        first = next(iter(self._unacked), self._cold[0] if self._cold else 0)
        return self.waiting, first
