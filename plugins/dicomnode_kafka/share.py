"""A member's share of a topic: how far each partition is, and what was read of it and not yet given."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from dicomnode.ports.broker import Delivery, Message
from dicomnode_kafka.progress import Progress, State

# A position is the offset and, below it, the partition: it rises within a partition, and so within a key.
_BITS = 16
_PARTITION = (1 << _BITS) - 1


class Share:
    """What is done stays known when a partition goes to another, for it may come back."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._known: dict[int, Progress] = {}
        self._owned: set[int] = set()
        self._ready: deque[Delivery] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    def known(self, partition: int) -> Progress | None:
        """Return how far `partition` was when it was last heard of here."""
        return self._known.get(partition)

    def own(self, partition: int, progress: Progress) -> None:
        """Have `partition` among those whose messages are given."""
        self._known[partition] = progress
        self._owned.add(partition)

    def owned(self) -> Mapping[int, Progress]:
        """Return the partitions that are this member's own."""
        return {partition: self._known[partition] for partition in self._owned}

    def absorb(self, found: Mapping[Any, Sequence[Any]]) -> None:
        """Take in the driver's records; those of partitions that are not owned will be read again by who owns them."""
        for place, records in found.items():
            if place.partition not in self._owned:
                continue
            progress = self._known[place.partition]
            for record in records:
                if progress.reached(record.offset):
                    self._ready.append(self._delivery(record, progress))

    def _delivery(self, record: Any, progress: Progress) -> Delivery:
        # Others may write to the topic too: a record that is none of ours is for the worker to lay aside.
        key = (record.key or b"").decode("utf-8", "backslashreplace")
        message = Message(self._topic, key, record.value or b"")
        return Delivery(message, record.offset << _BITS | record.partition, record.offset < progress.seen_to)

    def pop(self, most: int) -> list[Delivery]:
        """Give up to `most`."""
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def drop(self) -> None:
        """Have what was not given read again."""
        while self._ready:
            position = self._ready.pop().position
            self._known[position & _PARTITION].unread(position >> _BITS)

    def again(self) -> None:
        """Have all that is not done read again."""
        self._ready.clear()
        for progress in self._known.values():
            progress.again()

    def release(self) -> None:
        """Own nothing any more."""
        self.drop()
        self._owned.clear()

    def in_hand(self) -> int:
        """Return how many messages were given and are not done."""
        return sum(self._known[partition].in_hand() for partition in self._owned) - len(self._ready)

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Note that `deliveries` are done."""
        offsets: defaultdict[int, list[int]] = defaultdict(list)
        for delivery in deliveries:
            offsets[delivery.position & _PARTITION].append(delivery.position >> _BITS)
        for partition, done in offsets.items():
            if progress := self._known.get(partition):
                progress.settle_all(done)

    def uncommitted(self, room: int) -> dict[int, State]:
        """Return what is to be committed of the partitions that are owned."""
        states = {partition: progress.state(room) for partition, progress in self.owned().items()}
        return {partition: state for partition, state in states.items() if state != self._known[partition].kept}

    def committed(self, states: Mapping[int, State]) -> None:
        """Note that `states` are with the servers."""
        for partition, state in states.items():
            self._known[partition].kept = state
