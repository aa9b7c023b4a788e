"""The port for messages from one role to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence

import msgspec

from dicomnode.ports.plugin import Plugin
from dicomnode.ports.storage import Buffer


class Message(msgspec.Struct, frozen=True):
    """One message: `key` keeps what belongs together in order (the study UID)."""

    topic: str
    key: str
    body: bytes


class Delivery(msgspec.Struct, frozen=True):
    """A message on its way to a worker; `position` rises within a topic; `redelivered`: it may have come before.

    `doubtful`: a crash came between, so that the effect it was published beside may not be whole (see Overlap).
    `laden`: the bytes it was published with are kept until it is acknowledged (see Carrier). Where the broker spreads a
    topic over machines, `position` rises within a key only.
    """

    message: Message
    position: int
    redelivered: bool = False
    laden: bool = False
    doubtful: bool = False


class Lag(msgspec.Struct, frozen=True):
    """How far a group is behind: messages not acknowledged, and the age of the oldest of them in seconds."""

    messages: int
    oldest_s: float


class Subscription(ABC):
    """One group's view of one topic: at least once, in order per key."""

    @abstractmethod
    async def take(self, most: int, linger_s: float = 0.0) -> Sequence[Delivery]:
        """Wait for a message, then up to `linger_s` for more; return 1 to `most`, each not given before by this one.

        What was taken and not acknowledged comes again after a restart.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Never deliver these to the group again. Raises: Unavailable."""


class Broker(Plugin):
    """Carry messages between roles, at least once, in order per key."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when every one of `messages` will survive a crash, all or none.

        A topic that no group has ever subscribed to may keep nothing.

        Raises: Unavailable, Full: nothing was published; the caller may retry.
        """

    @abstractmethod
    async def subscribe(self, topic: str, group: str) -> Subscription:
        """Register `group` on `topic`; it gets what is published from now on, and what it left unacknowledged.

        A broker that keeps messages for groups to come gives a new group those too. Several processes of a group
        share the topic, each key with one of them at a time; what one leaves unacknowledged another gets.
        In one process a group has one subscription: a later one takes over; the earlier's `take` raises Unavailable.
        """

    @abstractmethod
    async def lag(self, topic: str, group: str) -> Lag:
        """Return how far `group` is behind on `topic`."""


class Overlap(ABC):
    """A broker that can make messages durable while the effect they tell of is still being made durable."""

    @abstractmethod
    async def publish_beside(self, messages: Sequence[Message], effect: Awaitable[object]) -> None:
        """Run `effect` and make `messages` durable at the same time; return when both are done.

        The messages are delivered only after `effect` has succeeded. When it raises they are withdrawn and the error is
        raised here. After a crash in between they are delivered all the same, marked `doubtful`: the worker must then
        check that the effect is whole.
        """


class Carrier(ABC):
    """A broker that keeps the bytes of a small object with the message that tells of it.

    One wait for the disk makes both durable. Who acknowledges such a message must first have the object durable
    elsewhere.
    """

    @abstractmethod
    def carries(self, topic: str, group: str) -> bool:
        """Tell whether bytes may be published on `topic` now.

        So it is where they would survive a crash of the machine, and `group` works in this process and keeps up.
        """

    @abstractmethod
    async def publish_laden(self, messages: Sequence[Message], cargo: Sequence[Buffer]) -> None:
        """As `publish`; the parts of `cargo`, joined, are kept with the first message until all groups acknowledged it.

        Raises: Unavailable, Full: nothing was published; the caller may retry.
        """

    @abstractmethod
    async def cargo(self, delivery: Delivery) -> bytes | None:
        """Return the bytes kept with a delivery that is not acknowledged; None where there are none."""


class Barrier(ABC):
    """A broker that can tell when all that was published has been worked on (read your writes)."""

    @abstractmethod
    async def settled(self, topic: str, group: str) -> None:
        """Return when `group` has acknowledged every message of `topic` published before this call.

        Returns at once where the group has no subscriber in this process.
        """


class Remote(ABC):  # noqa: B024 -- it says what it is
    """A broker that runs elsewhere, and may be away while this process is up.

    What the doors publish is then made durable in a log on this machine first, and handed on from there.
    """
