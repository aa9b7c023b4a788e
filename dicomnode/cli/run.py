"""Start the node and run until SIGTERM or SIGINT; then drain and exit. On SIGHUP read the certificates again.

Prints one line `ready ROLE=ADDRESS …` on standard output once everything is entered.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from dicomnode import log
from dicomnode.cli import loop
from dicomnode.cli.options import config_of
from dicomnode.config import ROLES, Config
from dicomnode.node import Node
from dicomnode.roles.role import Role
from dicomnode.roles.storescp.role import StoreScp


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--role", metavar="ROLE", action="append", choices=ROLES, help=f"repeatable; of {', '.join(ROLES)}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the node; return 0 after an orderly stop."""
    config = config_of(arguments)
    log.set_up(config.node.log, config.node.log_level)
    loop.run(_main(config, arguments.role or ROLES))
    return 0


async def _main(config: Config, roles: Sequence[str]) -> None:
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    node, reloading = Node(config, roles), set[asyncio.Task[None]]()

    def reload() -> None:
        task = running.create_task(node.reload())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    running.add_signal_handler(signal.SIGHUP, reload)
    await node.run(stop, lambda entered: _ready(config, entered))


def _ready(config: Config, roles: Sequence[Role]) -> None:
    words = [f"{role.name}={role.address}" if role.address else role.name for role in roles]
    words += [
        f"{role.name}+tls={role.tls_address}" for role in roles if isinstance(role, StoreScp) and role.tls_address
    ]
    print("ready", *words, flush=True)
    if sys.stdout.isatty():
        print(_welcome(config, {role.name: role.address for role in roles}), flush=True)


def _welcome(config: Config, addresses: dict[str, str]) -> str:
    lines = []
    if scp := addresses.get("storescp"):
        host, port = scp.partition("@")[2].rsplit(":", 1)
        lines.append(
            f"  send    dcmsend -aec {config.storescp.ae_title} {host} {port} FILE…   (or: dicomnode import PATH…)"
        )
    if server := addresses.get("server"):
        lines.append(f"  find    curl {server}/dicomweb/studies")
        lines.append(f"  look    {server}/")
    lines.append(f"  data    {config.node.data_dir}      stop with Ctrl-C")
    return "\n".join(lines)
