"""A process that works on a topic until it is killed: `python -m tests.plugins.kafka.working OPTIONS`.

It says on stdout what it was given and what it has acknowledged, each on a line of its own, after it was so.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from dicomnode.errors import Unavailable
from dicomnode.ports.broker import Delivery, Message, Subscription
from dicomnode_kafka.broker import KafkaBroker
from dicomnode_kafka.options import Options

TOPIC, GROUP = "storage_queue", "consumer"
PROJECT = Path(__file__).parents[3]


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def acknowledge(subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
    """Acknowledge as `roles.worker` does: until it is so."""
    while True:
        try:
            return await subscription.ack(deliveries)
        except Unavailable:
            await asyncio.sleep(0.1)


async def run(options: Options) -> None:
    async with KafkaBroker(options, Path("/nowhere")) as broker:
        subscription = await broker.subscribe(TOPIC, GROUP)
        say("ready")
        while True:
            deliveries = await subscription.take(10)
            for delivery in deliveries:
                say("given", delivery.message.body.decode())
            await acknowledge(subscription, deliveries)
            for delivery in deliveries:
                say("done", delivery.message.body.decode())


def message(number: int) -> Message:
    return Message(TOPIC, str(number % 10), str(number).encode())


async def publish_patiently(node: KafkaBroker, messages: list[Message]) -> None:
    while True:
        try:
            return await node.publish(messages)
        except Unavailable:
            await asyncio.sleep(0.1)


async def work(subscription: Subscription, given: list[int], done: set[int]) -> None:
    while True:
        deliveries = await subscription.take(50, 0.01)
        given += [int(delivery.message.body) for delivery in deliveries]
        await acknowledge(subscription, deliveries)
        done |= {int(delivery.message.body) for delivery in deliveries}


def in_order_per_key(given: list[int]) -> bool:
    """Tell whether what came first came in order; what comes again may come behind."""
    first = list(dict.fromkeys(given))
    return all([n for n in first if n % 10 == key] == sorted(n for n in first if n % 10 == key) for key in range(10))


class Worker:
    """Such a process, seen from outside."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.output = folder / f"worker-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "tests.plugins.kafka.working", msgspec.json.encode(options).decode()]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}
            )

    def said(self, word: str) -> list[int]:
        """Return the numbers that were said after `word`, as far as they are whole."""
        lines = [line.split() for line in self.output.read_text().split("\n")[:-1]]
        return [int(line[1]) for line in lines if line[0] == word and len(line) > 1]

    def is_ready(self) -> bool:
        return self.output.read_text().startswith("ready\n")


@contextmanager
def workers(folder: Path, *options: dict[str, Any]) -> Iterator[list[Worker]]:
    """Have a worker for each of `options`; they and those that are added are gone at the end."""
    started = [Worker(folder, told) for told in options]
    try:
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait(20)


async def until(true: Any, patience_s: float = 30) -> None:
    async with asyncio.timeout(patience_s):
        while not true():
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    while True:  # who supervises it would start it again
        with suppress(Unavailable):
            asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Options)))
        time.sleep(0.2)
