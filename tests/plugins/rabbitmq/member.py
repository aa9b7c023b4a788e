"""A member of a group that works until it is killed: `python -m tests.plugins.rabbitmq.member OPTIONS`, as JSON.

It says on stdout the body of each message, after it was acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from dicomnode_rabbitmq.broker import Options, RabbitmqBroker


async def work(options: Options) -> None:
    async with RabbitmqBroker(options, Path("/nowhere")) as broker:
        subscription = await broker.subscribe("storage_queue", "consumer")
        sys.stdout.write("ready\n")
        while True:
            sys.stdout.flush()
            taken = await subscription.take(10)
            await subscription.ack(taken)
            sys.stdout.writelines(f"{delivery.message.body.decode()}\n" for delivery in taken)


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.argv[1], type=Options)))
