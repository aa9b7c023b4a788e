"""The plugins of a process: which of them its roles need, made, opened, and closed with whoever opened them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dicomnode import plug
from dicomnode.config import Config, PluginTable
from dicomnode.errors import ConfigError
from dicomnode.opening import Opening
from dicomnode.ports.broker import Barrier, Broker, Carrier, Overlap, Remote
from dicomnode.ports.cache import Cache
from dicomnode.ports.coming import ComingBroker, ComingWarehouse
from dicomnode.ports.database import Database
from dicomnode.ports.plugin import Plugin
from dicomnode.ports.storage import Deferring, FreeSpace, LocalPath, Storage
from dicomnode.ports.warehouse import Pulling, Warehouse

# The port's name in the configuration -> its class.
PORTS: dict[str, Any] = {
    "storage": Storage,
    "broker": Broker,
    "database": Database,
    "cache": Cache,
    "warehouse": Warehouse,
}
CAPABILITIES: tuple[type, ...] = (LocalPath, FreeSpace, Deferring, Overlap, Carrier, Barrier, Remote, Pulling)

# What a role cannot work without. A door also publishes: into the outbox, else to the broker.
_NEEDS = {
    "storescp": {"storage", "database"},
    "server": {"storage", "database", "cache"},
    "consumer": {"storage", "broker", "database"},
    "recorder": {"broker"},
    "transcoder": {"storage", "broker"},
}
_DOORS = frozenset({"storescp", "server"})


class Backends(msgspec.Struct, frozen=True):
    """The plugins, one a port; those not `used` are not opened. `outbox`: the log before a broker elsewhere."""

    storage: Storage
    broker: Broker
    database: Database
    cache: Cache
    warehouse: Warehouse
    outbox: Broker | None = None
    used: frozenset[str] = frozenset({*PORTS, "outbox"})

    @property
    def outgoing(self) -> Broker:
        """Where doors publish: into the log on this machine, where the broker is elsewhere."""
        return self.outbox if self.outbox is not None and isinstance(self.broker, Remote) else self.broker

    def by_port(self) -> dict[str, Plugin]:
        """Return each plugin that is used under the name of its port."""
        named = {name: getattr(self, name) for name in (*PORTS, "outbox") if name in self.used}
        return {name: plugin for name, plugin in named.items() if plugin is not None}


def make_backends(config: Config) -> Backends:
    """Return the plugins that the configuration names, none of them opened. Raises: ConfigError."""
    return Backends(**{port: maker() for port, maker in _makers(config).items() if port != "outbox"})


def _makers(config: Config) -> dict[str, Callable[[], Any]]:
    data_dir = Path(config.node.data_dir)
    makers: dict[str, Callable[[], Any]] = {
        port: partial(plug.make, port, kind, getattr(config, port), data_dir) for port, kind in PORTS.items()
    }
    # The core knows of no plugin; this one is named here as the defaults in the configuration are.
    log = PluginTable("sqlite", {"path": str(outbox_path(config)), "most_bytes": config.outbox.most_bytes})
    makers["outbox"] = partial(plug.make, "broker", Broker, log, data_dir)
    return makers


def is_remote(config: Config) -> bool:
    """Tell whether the broker is elsewhere. Raises: ConfigError."""
    return issubclass(plug.find("broker", config.broker.use), Remote)


def outbox_path(config: Config) -> Path:
    """Return where the log before a broker elsewhere is, or would be."""
    return Path(config.outbox.path) if config.outbox.path else Path(config.node.data_dir) / "outbox.sqlite"


def make_openings(config: Config) -> dict[str, Opening[Any]]:
    """Return each backend, not opened, by port; with the outbox, where it is wanted. Raises: ConfigError."""
    makers = _makers(config)
    made = {port: Opening(port, makers[port]) for port in PORTS}
    if is_remote(config) or outbox_path(config).exists():
        made["outbox"] = Opening("outbox", makers["outbox"])
    return made


class Openings:
    """The backends that `roles` need, on their way, and those that they would like to have. Raises: ConfigError."""

    def __init__(self, config: Config, roles: Collection[str]) -> None:
        self._makers = _makers(config)
        self._made = make_openings(config)
        remote, left = is_remote(config), outbox_path(config).exists()
        self._needed, self._wanted = _used(roles, remote=remote, left=left)

    @property
    def asked(self) -> Mapping[str, Opening[Any] | Plugin]:
        """What can be asked whether it answers, by port; so long as one is not open, it does not."""
        return {port: self._coming(port) if port in self._wanted else self._made[port] for port in self._used}

    @property
    def _used(self) -> list[str]:
        return [port for port in self._made if port in self._needed | self._wanted]

    async def open(self, stack: AsyncExitStack, beside: asyncio.TaskGroup) -> Backends:
        """Return the backends once all that are needed are open; `stack` closes them. The others are opened `beside`.

        Raises: ConfigError, perhaps in a group.
        """
        for port in self._wanted:
            task = beside.create_task(self._made[port].open(stack), name=f"open {port}")
            stack.push_async_callback(cancelled, task)
        async with asyncio.TaskGroup() as group:
            for port in self._needed:
                group.create_task(self._made[port].open(stack), name=f"open {port}")
        made = {port: opening.get() for port, opening in self._made.items() if port in self._needed}
        coming: dict[str, Any] = {port: self._coming(port) for port in self._wanted}
        idle = {port: self._makers[port]() for port in PORTS if port not in made and port not in coming}
        return Backends(**made, **coming, **idle, used=frozenset(self._used))

    def _coming(self, port: str) -> Plugin:
        return (ComingBroker if port == "broker" else ComingWarehouse)(self._made[port].get)


def _used(roles: Collection[str], *, remote: bool, left: bool) -> tuple[set[str], set[str]]:
    """Return which ports `roles` need, and which they want. `left`: there is an outbox of an earlier run."""
    needed = set[str]().union(*(_NEEDS[role] for role in roles))
    wanted = {"warehouse"} if {"server", "recorder"} & set(roles) else set[str]()
    if set(roles) == {"recorder"}:
        needed.add("warehouse")  # beside other work rows wait in the broker: a warehouse that is away stops nobody
    publishing = not _DOORS.isdisjoint(roles)
    if left or (publishing and remote):
        needed |= {"storage", "outbox"}
        wanted.add("broker")
    if publishing and not remote:
        needed.add("broker")
    return needed, wanted - needed


@asynccontextmanager
async def opened(config: Config, ports: Collection[str] = tuple(PORTS)) -> AsyncIterator[Backends]:
    """Have the plugins of `ports` open, under the lock of the data folder; one that is away is not waited for.

    Raises: ConfigError, Unavailable.
    """
    made, makers, used = make_openings(config), _makers(config), frozenset({*ports, "outbox"})
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(Path(config.node.data_dir)))
        found = {
            port: await opening.try_once(stack) if port in used else makers[port]() for port, opening in made.items()
        }
        yield Backends(**found, used=used)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Have `task` ended, however it ends."""
    task.cancel()
    await asyncio.wait([task])


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Have the data folder, made if it was not there, to this process alone. Raises: ConfigError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            "node.data_dir", f"{data_dir} cannot be used: {error.strerror}", "choose a folder that this user may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise Occupied(data_dir, holder) from error
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


class Occupied(ConfigError):
    """Another process has the data folder."""

    def __init__(self, data_dir: Path, holder: str) -> None:
        super().__init__(
            "node.data_dir",
            f"{data_dir} is in use by process {holder}",
            "one process has a data folder; stop that one, or choose another with --set node.data_dir=…",
        )
