"""The composition root: the only file that knows every room. It opens, runs and closes.

Plugins first, then the workers, then the doors; the way out is the reverse, so that a door that drains still has
everything behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from dicomnode import log
from dicomnode.backends import Backends, Openings, cancelled, locked
from dicomnode.config import Config
from dicomnode.config_rules import doubts
from dicomnode.documents import Documents
from dicomnode.errors import ConfigError
from dicomnode.model.entry import Policy
from dicomnode.model.messages import IMAGE_QUEUE, INDEXING_GROUP, RELAY_GROUP, STATE_QUEUE, TRANSFER_QUEUE
from dicomnode.model.viewers import Viewers
from dicomnode.ports.broker import Barrier, Broker, Remote
from dicomnode.roles.consumer import Consumer
from dicomnode.roles.outbox import Outbox
from dicomnode.roles.recorder import Recorder
from dicomnode.roles.role import Role
from dicomnode.roles.server.entrance import Entrance
from dicomnode.roles.server.listening import Listening
from dicomnode.roles.server.role import Server
from dicomnode.roles.storescp.commitment import CommitmentScp
from dicomnode.roles.storescp.identity import Identities
from dicomnode.roles.storescp.performed import PerformedScp
from dicomnode.roles.storescp.query import QueryScp
from dicomnode.roles.storescp.reports import Reports
from dicomnode.roles.storescp.retrieval import RetrievalScp
from dicomnode.roles.storescp.role import StoreScp
from dicomnode.roles.storescp.worklist import WorklistScp
from dicomnode.roles.transcoder import Transcoder
from dicomnode.services.access_log import AccessLog
from dicomnode.services.announce import Announce
from dicomnode.services.catch_up import CatchUp
from dicomnode.services.commitment import Commitment
from dicomnode.services.describe import Describe
from dicomnode.services.find import Find
from dicomnode.services.index import Index
from dicomnode.services.ingest import Ingest
from dicomnode.services.measure import Measure
from dicomnode.services.performed import PerformedSteps
from dicomnode.services.record import Record
from dicomnode.services.relay import Relay
from dicomnode.services.represent import Represent
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.statistics import Statistics
from dicomnode.services.transcode import Transcode, TranscodeLimits
from dicomnode.services.watermark import Watermark
from dicomnode.services.worklist import Worklist

_LOG = log.get("node")
_OUTBOX_RESERVE = 10  # with less than a tenth of it free senders are refused

T = TypeVar("T")


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


def is_recorded(config: Config, broker: Broker) -> bool:
    """Tell whether anyone reads what the warehouse is made of: this node, or perhaps others on a broker elsewhere."""
    return config.warehouse.use != "off" or isinstance(broker, Remote)


def make_announce(config: Config, backends: Backends) -> Announce:
    """Return what tells others of indexed objects."""
    read = {TRANSFER_QUEUE} | ({IMAGE_QUEUE, STATE_QUEUE} if is_recorded(config, backends.broker) else set())
    return Announce(backends.broker, backends.database, frozenset(read))


def make_access_log(config: Config, backends: Backends) -> AccessLog | None:
    """Return what tells of requests, where anyone wants to know."""
    wanted = config.server.access_log and is_recorded(config, backends.broker)
    return AccessLog(backends.outgoing) if wanted else None


def make_recorder(config: Config, backends: Backends) -> Recorder:
    """Return what fills the warehouse, where there is one."""
    record = None if config.warehouse.use == "off" else Record(backends.warehouse)
    return Recorder(config.recorder, backends.broker, record)


def make_ingest(config: Config, backends: Backends) -> Ingest:
    """Return what takes objects in."""
    outgoing = backends.outgoing
    reader = RELAY_GROUP if outgoing is backends.outbox else INDEXING_GROUP
    return Ingest(backends.storage, outgoing, config.ingest, viewers(config), reader)


def make_outbox(config: Config, backends: Backends) -> Outbox | None:
    """Return what hands on what doors left in the log on this machine, where there is one."""
    if backends.outbox is None:
        return None
    relay = Relay(backends.outbox, backends.broker, backends.storage)
    watermark = Watermark(backends.outbox, config.outbox.most_bytes // _OUTBOX_RESERVE, "outbox")
    return Outbox(config.outbox, backends.outbox, relay, watermark)


def viewers(config: Config) -> Viewers:
    """Return what viewers show, as ingest and sweep need to know it."""
    return Viewers(frozenset(config.transcoder.viewer_transfer_syntaxes), config.transcoder.target)


class Node:
    """A node of chosen roles. Use `run`, or `started` to have one running beside other work."""

    def __init__(self, config: Config, roles: Sequence[str]) -> None:
        self._config = config
        self._chosen = frozenset(roles)
        self._entered: Sequence[Role] = ()
        self._transcode = Transcode()
        # Those that the transcoder keeps busy are not those that a C-GET waits for.
        self._convert = Transcode(TranscodeLimits(processes=config.transcoder.at_once))

    async def run(self, stop: asyncio.Event, ready: Callable[[Sequence[Role]], None]) -> None:
        """Run until `stop` is set, then drain and return; call `ready` once every role is entered.

        Raises: ConfigError when it cannot start; the error of a role that failed while running.
        """
        for doubt in doubts(self._config, self._chosen):
            _LOG.warning("configuration.doubtful", path=doubt.path, problem=doubt.problem, hint=doubt.hint)
        try:
            async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
                stack.enter_context(locked(Path(self._config.node.data_dir)))
                openings = Openings(self._config, self._chosen)
                entrance = await stack.enter_async_context(self._entrance(openings))
                backends = await _unless(stop, openings.open(stack, group))
                if backends is None:
                    _LOG.info("node.stopping")
                else:
                    await self._run(backends, entrance, group, stop, ready)
        except BaseExceptionGroup as group:
            raise _first(group) from group

    def _entrance(self, openings: Openings) -> Entrance:
        config = self._config
        server = config.server if "server" in self._chosen else None
        return Entrance(config.health, server, config.node.tenant, openings.asked)

    async def _run(
        self,
        backends: Backends,
        entrance: Entrance,
        group: asyncio.TaskGroup,
        stop: asyncio.Event,
        ready: Callable[[Sequence[Role]], None],
    ) -> None:
        """Enter the roles, have them running until `stop` is set, and leave them."""
        entrance.backends, entrance.measured = backends.by_port(), self._measure(backends).refresh
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._transcode)
            await stack.enter_async_context(self._convert)
            roles = [role for role in self.roles(backends, entrance.web) if role.name in {*self._chosen, Outbox.name}]
            for role in roles:
                await stack.enter_async_context(role)
                task = group.create_task(role.run(), name=role.name)
                stack.push_async_callback(cancelled, task)
            self._entered = roles
            entrance.started()
            stack.push_async_callback(cancelled, group.create_task(entrance.part(), name="entrance"))
            ready([*roles, entrance.health] if entrance.health else roles)
            await stop.wait()
            _LOG.info("node.stopping")

    async def reload(self) -> None:
        """Have certificates read again; associations that stand go on as they are."""
        for role in self._entered:
            if isinstance(role, StoreScp):
                await role.reload()

    def roles(self, backends: Backends, web: Listening | None = None) -> Iterator[Role]:
        """Yield every role, workers first. Only those that are run are entered. `web`: the web door's address."""
        config = self._config
        policy = Policy(config.ingest.duplicates)
        caught_up = self._catch_up(backends).settled
        ingest = make_ingest(config, backends)
        outbox = make_outbox(config, backends)
        if outbox is not None:
            yield outbox
        yield make_recorder(config, backends)  # it has to read before others write
        represent = Represent(backends.storage, self._convert)
        yield Transcoder(config.transcoder, backends.broker, represent)
        index = Index(backends.database, backends.storage, policy)
        yield Consumer(config.consumer, backends.broker, index, make_announce(config, backends))
        find = Find(backends.database, caught_up, config.server.limits.results)
        retrieve = Retrieve(backends.storage, backends.database, caught_up)
        worklist = make_worklist(config)
        performed = PerformedSteps(documents(config, "performed", config.performed.folder), worklist)
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
            watermark=Watermark(
                backends.storage,
                config.storescp.limits.storage_free,
                also=outbox.watermark if outbox is not None else None,
            ),
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
            listening=web,
            access_log=make_access_log(config, backends),
            statistics=Statistics(None if config.warehouse.use == "off" else backends.warehouse),
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
        queues = [queue for role in (Consumer, Transcoder) if role.name in self._chosen for queue in role.queues]
        if "recorder" in self._chosen and self._config.warehouse.use != "off":
            queues += Recorder.queues
        outbox = Measure(backends.outbox, Outbox.queues) if backends.outbox is not None else None
        return Measure(backends.broker, queues, outbox)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns; None where `stop` is set before, and then it is ended."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await cancelled(working)
        await cancelled(stopping)


def _first(group: BaseExceptionGroup) -> BaseException:
    """Return the error that matters of a group: the first leaf."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
