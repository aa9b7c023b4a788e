"""The composition root: the only file that knows every room. It opens, runs and closes.

Plugins first, then the workers, then the doors; the way out is the reverse, so that a door that drains still has
everything behind it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from dicomnode import log, plug
from dicomnode.config import Config
from dicomnode.documents import Documents
from dicomnode.errors import ConfigError
from dicomnode.model.entry import Policy
from dicomnode.ports.broker import Barrier, Broker, Carrier, Overlap
from dicomnode.ports.cache import Cache
from dicomnode.ports.database import Database
from dicomnode.ports.plugin import Plugin
from dicomnode.ports.storage import Deferring, FreeSpace, LocalPath, Storage
from dicomnode.roles.consumer import Consumer
from dicomnode.roles.role import Role
from dicomnode.roles.server.role import Server
from dicomnode.roles.storescp.commitment import CommitmentScp
from dicomnode.roles.storescp.identity import Identities
from dicomnode.roles.storescp.performed import PerformedScp
from dicomnode.roles.storescp.query import QueryScp
from dicomnode.roles.storescp.reports import Reports
from dicomnode.roles.storescp.retrieval import RetrievalScp
from dicomnode.roles.storescp.role import StoreScp
from dicomnode.roles.storescp.worklist import WorklistScp
from dicomnode.services.catch_up import CatchUp
from dicomnode.services.commitment import Commitment
from dicomnode.services.describe import Describe
from dicomnode.services.find import Find
from dicomnode.services.index import Index
from dicomnode.services.ingest import Ingest
from dicomnode.services.measure import Measure
from dicomnode.services.performed import PerformedSteps
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.transcode import Transcode
from dicomnode.services.watermark import Watermark
from dicomnode.services.worklist import Worklist

_LOG = log.get("node")


# The port's name in the configuration -> its class.
PORTS: dict[str, Any] = {"storage": Storage, "broker": Broker, "database": Database, "cache": Cache}
CAPABILITIES: tuple[type, ...] = (LocalPath, FreeSpace, Deferring, Overlap, Carrier, Barrier)


class Backends(msgspec.Struct, frozen=True):
    """The plugins, one a port."""

    storage: Storage
    broker: Broker
    database: Database
    cache: Cache

    def by_port(self) -> dict[str, Plugin]:
        """Return each plugin under the name of its port."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


def make_backends(config: Config) -> Backends:
    """Return the plugins that the configuration names, none of them opened. Raises: ConfigError."""
    data_dir = Path(config.node.data_dir)
    return Backends(**{port: plug.make(port, kind, getattr(config, port), data_dir) for port, kind in PORTS.items()})


def documents(config: Config, subject: str, folder: str = "") -> Documents:
    """Return the documents in `folder`, else `<data_dir>/<subject>`, which is made if need be. Raises: ConfigError."""
    root = Path(folder) if folder else Path(config.node.data_dir) / subject
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        path = f"{subject}.folder" if folder else "node.data_dir"
        raise ConfigError(path, f"{root} cannot be used: {error.strerror}") from error
    return Documents(root, config.node.tenant, subject)


def make_worklist(config: Config) -> Worklist:
    """Return the worklist of a node. Raises: ConfigError."""
    return Worklist(documents(config, "worklist", config.worklist.folder), config.worklist.entries)


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


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Backends]:
    """Have every plugin open, under the lock of the data folder."""
    backends = make_backends(config)
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(Path(config.node.data_dir)))
        for plugin in backends.by_port().values():
            await stack.enter_async_context(plugin)
        yield backends


class Node:
    """A node of chosen roles. Use `run`, or `started` to have one running beside other work."""

    def __init__(self, config: Config, roles: Sequence[str]) -> None:
        self._config = config
        self._chosen = frozenset(roles)
        self._entered: Sequence[Role] = ()
        self._transcode = Transcode()

    async def run(self, stop: asyncio.Event, ready: Callable[[Sequence[Role]], None]) -> None:
        """Run until `stop` is set, then drain and return; call `ready` once every role is entered.

        Raises: ConfigError when it cannot start; the error of a role that failed while running.
        """
        try:
            async with asyncio.TaskGroup() as group, opened(self._config) as backends, AsyncExitStack() as stack:
                await stack.enter_async_context(self._transcode)
                roles = [role for role in self.roles(backends) if role.name in self._chosen]
                for role in roles:
                    await stack.enter_async_context(role)
                    task = group.create_task(role.run(), name=role.name)
                    stack.push_async_callback(_cancelled, task)
                self._entered = roles
                ready(roles)
                await stop.wait()
                _LOG.info("node.stopping")
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def reload(self) -> None:
        """Have certificates read again; associations that stand go on as they are."""
        for role in self._entered:
            if isinstance(role, StoreScp):
                await role.reload()

    def roles(self, backends: Backends) -> Iterator[Role]:
        """Yield every role, workers first. Only those that are run are entered."""
        config = self._config
        policy = Policy(config.ingest.duplicates)
        caught_up = self._catch_up(backends).settled
        ingest = Ingest(backends.storage, backends.broker, config.ingest)
        yield Consumer(config.consumer, backends.broker, Index(backends.database, backends.storage, policy))
        find = Find(backends.database, caught_up, config.server.limits.results)
        retrieve = Retrieve(backends.storage, backends.database, caught_up)
        worklist = make_worklist(config)
        performed = PerformedSteps(documents(config, "performed"), worklist)
        subjects = (
            QueryScp(config.query, config.storescp, find),
            RetrievalScp(config.query, config.storescp, config.peers, retrieve, self._transcode),
            WorklistScp(worklist),
            PerformedScp(performed),
            CommitmentScp(self._reports(backends)),
        )
        yield StoreScp(
            config.storescp,
            config.peers,
            config.node.tenant,
            ingest,
            subjects,
            identities=Identities(config.users, config.server.auth.tokens),
            watermark=Watermark(backends.storage, config.storescp.limits.storage_free),
        )
        yield Server(
            config.server,
            config.node.tenant,
            ingest=ingest,
            find=find,
            retrieve=retrieve,
            describe=Describe(retrieve, backends.cache),
            worklist=worklist,
            performed=performed,
            measure=self._measure(backends),
            backends=backends.by_port(),
        )

    def _reports(self, backends: Backends) -> Reports:
        config = self._config
        # Not `CatchUp`: what is only late in the index must not be told as lost.
        broker = backends.broker
        barrier = broker if isinstance(broker, Barrier) and "consumer" in self._chosen else None
        commitment = Commitment(backends.storage, backends.database, barrier)
        return Reports(config.commitment, config.peers, commitment, documents(config, "commitment"))

    def _catch_up(self, backends: Backends) -> CatchUp:
        """Return what lets a query wait for the index, where the index is made in this process."""
        return CatchUp(backends.broker if "consumer" in self._chosen else None, self._config.consumer.catch_up_s)

    def _measure(self, backends: Backends) -> Measure:
        return Measure(backends.broker, Consumer.queues if "consumer" in self._chosen else ())


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _first(group: BaseExceptionGroup) -> BaseException:
    """Return the error that matters of a group: the first leaf."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
