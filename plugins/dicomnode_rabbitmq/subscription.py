"""A group's queues, each read over a channel of its own, with one of all processes reading it at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from dicomnode.errors import NodeError, Unavailable
from dicomnode.ports.broker import Delivery, Message, Subscription
from dicomnode_rabbitmq.connecting import NAME, Link, asking
from dicomnode_rabbitmq.publishing import AT, KEY
from dicomnode_rabbitmq.sharing import RollCall

_LOG = logging.getLogger("dicomnode.rabbitmq")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_ROUNDS = 5

Arrived = Callable[["Reader", DeliveredMessage], None]


class Reader:
    """One queue. What it holds is not acknowledged yet, by position; all of it comes again once the channel is closed.

    `busy`: something came over this channel, so no other process gets anything of this queue. `leaving`: nothing more
    is given out, and when nothing is held the channel is closed, to let another process read.
    """

    def __init__(self, queue: str, prefetch: int, arrived: Arrived) -> None:
        self.queue = queue
        self.held: dict[int, tuple[int, int]] = {}  # position: delivery tag, time of publishing in ms
        self.busy = self.leaving = False
        self.moves = 0  # how often something came or went
        self._prefetch = prefetch
        self._arrived = arrived
        self._channel: Channel | None = None
        self._gone = asyncio.Event()
        self._gone.set()

    @property
    def is_full(self) -> bool:
        """Tell whether the server sends nothing more before an acknowledgement."""
        return len(self.held) >= self._prefetch

    async def open(self, link: Link) -> None:
        """Stand in line for the queue. Raises: ConfigError, Unavailable."""
        try:
            with asking():
                async with asyncio.timeout(link.timeout_s):
                    await self._open(await link.channel())
        except BaseException:
            await self.close()
            raise

    async def _open(self, channel: Channel) -> None:
        self._gone = gone = asyncio.Event()
        channel.closing.add_done_callback(lambda _: gone.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: gone.set())
        self._channel = channel
        self.busy = self.leaving = False

        async def came(message: DeliveredMessage) -> None:
            if channel is self._channel and not self.leaving:
                self.busy = True
                self.moves += 1
                self._arrived(self, message)

        await channel.basic_qos(prefetch_count=self._prefetch)
        await channel.basic_consume(self.queue, came)

    async def lost(self) -> None:
        """Return when the channel is closed, by whomever."""
        await self._gone.wait()

    def leave(self) -> None:
        """Let another process read, as soon as what was given out is acknowledged."""
        self.leaving = True
        self._leave_if_free()

    def _leave_if_free(self) -> None:
        if self.leaving and not self.held:
            self._gone.set()

    async def close(self) -> None:
        """Have the server give what is held to the next in line."""
        channel, self._channel = self._channel, None
        self.held.clear()
        self._gone.set()
        if channel is not None:
            with contextlib.suppress(NodeError), asking():
                async with asyncio.timeout(1.0):
                    await channel.close()

    async def ack(self, positions: Collection[int]) -> None:
        """Acknowledge those of `positions` that are held; what is not held any longer is another's."""
        mine = sorted(position for position in positions if position in self.held)
        if not mine or self._channel is None:
            return
        together, singly = self._split(set(mine))
        for position in mine:
            del self.held[position]
        self.moves += 1
        with contextlib.suppress(NodeError), asking():  # a channel that is lost: they come again
            if together:
                await self._channel.basic_ack(together, multiple=True, wait=False)
            for tag in singly:
                await self._channel.basic_ack(tag, wait=False)
        self._leave_if_free()

    def _split(self, mine: set[int]) -> tuple[int, list[int]]:
        """Return the tag up to which all are acknowledged, 0 for none, and the tags of the others."""
        together, singly, whole = 0, [], True
        for position, (tag, _) in self.held.items():
            whole = whole and position in mine
            if whole:
                together = tag
            elif position in mine:
                singly.append(tag)
        return together, singly

    async def behind(self) -> int:
        """Return how many messages wait on the server or are held here. Raises: Unavailable."""
        channel = self._channel
        if channel is None or channel.is_closed:
            raise Unavailable(NAME, "the connection was lost")
        for _ in range(_ROUNDS):
            before = self.moves
            ready = (await channel.queue_declare(self.queue, passive=True)).message_count
            # What was on its way here when the server counted has arrived when it answers once more.
            again = (await channel.queue_declare(self.queue, passive=True)).message_count
            if (before, ready) == (self.moves, again):
                break
        return (again or 0) + len(self.held)


class RabbitmqSubscription(Subscription):
    """All queues of a group. `make` makes them where they are not there, and returns their names."""

    def __init__(
        self, link: Link, topic: str, make: Callable[[], Awaitable[list[str]]], prefetch: int, readers: RollCall
    ) -> None:
        self._link = link
        self._topic = topic
        self._make = make
        self._all = readers
        self._prefetch = prefetch
        self._readers: list[Reader] = []
        self._ready: deque[Delivery] = deque()
        self._changed = asyncio.Event()
        self._enough = 1
        self._last = 0
        self._ended = ""
        self._share_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def reads(self) -> bool:
        """Tell whether the server sends messages here."""
        return bool(self._tasks)

    async def begin(self, share_s: float, *, at_once: bool) -> None:
        """Read `at_once`, or from the first `take` on; look every `share_s` seconds whether others want a part.

        Raises: ConfigError, Unavailable.
        """
        self._share_s = share_s
        try:
            for queue in await self._make():
                self._readers.append(Reader(queue, self._prefetch, self._arrived))
            if at_once:
                for reader in self._readers:
                    await reader.open(self._link)
                self._read()
        except BaseException:
            await self.end("it could not be read")
            raise

    def _read(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(reader)) for reader in self._readers]
        self._tasks.append(asyncio.create_task(self._share(self._share_s)))

    async def end(self, reason: str) -> None:
        """Give nothing more; whoever waits is told `reason`."""
        self._ended = reason
        self._changed.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ready.clear()
        await asyncio.gather(*(reader.close() for reader in self._readers))
        with contextlib.suppress(NodeError):
            await self._all.leave()

    def _arrived(self, reader: Reader, message: DeliveredMessage) -> None:
        headers = message.header.properties.headers or {}
        key, at = headers.get(KEY), headers.get(AT)
        self._last = position = max(self._last + 1, time.time_ns() // 1000)
        reader.held[position] = (
            message.delivery.delivery_tag or 0,  # type: ignore[union-attr]
            at if isinstance(at, int) else time.time_ns() // 1_000_000,
        )
        self._ready.append(
            Delivery(
                Message(self._topic, key if isinstance(key, str) else "", message.body),
                position,
                redelivered=bool(message.redelivered),
            )
        )
        if len(self._ready) == 1 or len(self._ready) >= self._enough or reader.is_full:
            self._changed.set()

    async def take(self, most: int, linger_s: float = 0.0) -> Sequence[Delivery]:
        """Wait for a message, over any outage, then up to `linger_s` for more; return 1 to `most`.

        Does not linger where the server sends no more before an acknowledgement. Raises: Unavailable when it is over.
        """
        if most < 1:
            raise ValueError("take at least one message")
        self._enough = most
        if not self._tasks and not self._ended:
            self._read()
        while not self._ended:
            while not self._ready and not self._ended:
                await self._change()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(linger_s):
                    while len(self._ready) < most and not self._is_full() and not self._ended:
                        await self._change()
            if self._ready:
                return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        raise Unavailable(NAME, self._ended)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _is_full(self) -> bool:
        return any(reader.is_full for reader in self._readers)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Never deliver these to the group again, except those whose connection was lost since: they come again."""
        positions = [delivery.position for delivery in deliveries]
        for reader in self._readers:
            await reader.ack(positions)

    async def behind(self) -> tuple[int, int]:
        """Return how many messages wait here or on the server, and the time in ms of the oldest that is here, or 0."""
        with asking():
            async with asyncio.timeout(self._link.timeout_s):
                count = sum([await reader.behind() for reader in self._readers])
        return count, min((at for reader in self._readers for _, at in reader.held.values()), default=0)

    async def _keep(self, reader: Reader) -> None:
        """Have `reader` stand in line, also after its channel was lost or given up."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await reader.lost()
            self._forget(reader)
            await reader.close()
            try:
                await reader.open(self._link)
            except NodeError as error:
                _LOG.debug("subscription.waits: %s", error)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 -- so that not all come at once
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                with contextlib.suppress(NodeError):
                    await self._make()
            else:
                pause_s = _FIRST_PAUSE_S

    def _forget(self, reader: Reader) -> None:
        """Give out nothing more of what `reader` brought: it comes again, here or elsewhere."""
        here = {position for other in self._readers if other is not reader for position in other.held}
        self._ready = deque(delivery for delivery in self._ready if delivery.position in here)

    async def _share(self, every_s: float) -> None:
        """Leave queues to other processes of the group where this one reads more than its share.

        The server gives a queue to whoever asked first, so the first process has all of them at first. Who leaves one
        stands last in line for it.
        """
        while True:
            with contextlib.suppress(NodeError):
                fair = math.ceil(len(self._readers) / max(1, await self._all.count()))
                busy = [reader for reader in self._readers if reader.busy and not reader.leaving]
                for reader in random.sample(busy, max(0, len(busy) - fair)):
                    self._leave(reader)
            await asyncio.sleep(every_s * random.uniform(0.5, 1.0))  # noqa: S311 -- so that not all leave at once

    def _leave(self, reader: Reader) -> None:
        for delivery in self._ready:
            reader.held.pop(delivery.position, None)
        self._forget(reader)
        reader.leave()
