"""One way to the server: a connection that is made anew when it is lost, and what its errors mean to us."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import msgspec
from aio_pika.abc import AbstractConnection
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosed,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from aiormq.channel import Channel
from pamqp.exceptions import PAMQPException

from dicomnode.errors import ConfigError, NodeError, Unavailable

NAME = "rabbitmq"
_LOG = logging.getLogger("dicomnode.rabbitmq")
_URL = "broker.options.url"
_EXAMPLE = "amqp://user:password@host:5672/vhost"
_AWAY = (AMQPError, OSError, RuntimeError, TimeoutError, PAMQPException)
# What the driver takes from the url; what it does not know it overlooks.
_SETTINGS = frozenset({"cafile", "capath", "certfile", "keyfile", "no_verify_ssl", "auth"})


class Settings(msgspec.Struct, frozen=True):
    """How to connect; see `broker.Options`."""

    url: str
    user: str
    password: str
    heartbeat_s: int
    timeout_s: float

    def __repr__(self) -> str:
        return "Settings(…)"  # it may hold secrets

    def address(self, purpose: str) -> str:
        """Return the url with all that the driver takes from it. Raises: ConfigError."""
        try:
            url = make_url(self.url)
        except ValueError as error:
            raise ConfigError(_URL, "is no address of RabbitMQ", _EXAMPLE) from error
        if url.scheme not in ("amqp", "amqps") or not url.host:
            raise ConfigError(_URL, "is no address of RabbitMQ", _EXAMPLE)
        if unknown := set(url.query) - _SETTINGS:
            known = ", ".join(sorted(_SETTINGS))
            raise ConfigError(_URL, f"there is no {', '.join(sorted(unknown))}", f"known: {known}")
        if self.user:
            url = url.with_user(self.user)
        if self.password:
            url = url.with_password(self.password)
        return str(url.update_query(heartbeat=max(1, self.heartbeat_s), name=f"dicomnode {purpose}"))


def quiet() -> None:
    """Have the driver say nothing: we tell what an operator needs, and in its finest lines are whole messages."""
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def asking() -> Iterator[None]:
    """Turn what the driver raises into our errors. Never quotes what the server says: it may name what it was sent."""
    try:
        yield
    except NodeError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The driver cancels whoever waits on a connection that goes.
        raise Unavailable(NAME, "the connection was lost") from error
    except _AWAY as error:
        raise told(error) from error


def told(error: BaseException) -> ConfigError | Unavailable:
    """Return what to raise for an error of the driver."""
    return _of_operator(error) or Unavailable(NAME, _away(error))


def _of_operator(error: BaseException) -> ConfigError | None:
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return ConfigError(_URL, "the server refused the user or the password")
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return ConfigError(_URL, "the server's certificate is not trusted", "amqps://…?cafile=FILE names who signed it")
    if isinstance(error, FileNotFoundError):
        return ConfigError(_URL, "a file of certificates is not there")
    if "ACCESS_REFUSED" in str(error):
        return ConfigError(_URL, "the user may not do this", "let it configure, write and read what begins with prefix")
    return None


def _away(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the server took too long"
    if isinstance(error, InvalidFrameError):  # all that the driver tells where the server closes while it opens
        return "the server refused the virtual host: it is down or full, or not there for this user"
    if isinstance(error, ChannelClosed):
        return f"the server refused: {type(error).__name__}"
    return f"the server cannot be reached: {type(error).__name__}"


class Link:
    """A connection for one purpose. While there is none, whoever asks for a channel has it made."""

    def __init__(self, settings: Settings, purpose: str) -> None:
        self._settings = settings
        self._purpose = purpose
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._state: Literal["new", "there", "lost"] = "new"
        self.version = (0, 0)

    @property
    def timeout_s(self) -> float:
        """How long anything may take that the server answers at once."""
        return self._settings.timeout_s

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Return a new channel. Raises: ConfigError, Unavailable."""
        with asking():
            connection = await self._connected()
            channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
            await channel.initialize()
            made = await channel.get_underlay_channel()
            assert isinstance(made, Channel)
            return made

    @asynccontextmanager
    async def visit(self) -> AsyncIterator[Channel]:
        """Have a channel for a few questions, in bounded time. Raises: ConfigError, Unavailable."""
        with asking():
            async with asyncio.timeout(self.timeout_s):
                channel = await self.channel()
                try:
                    yield channel
                finally:
                    await channel.close()

    async def _connected(self) -> AbstractConnection:
        async with self._connecting:
            if self._closed:
                raise Unavailable(NAME, "the broker is closed")
            if self._connection is None or not _is_open(self._connection):
                self.drop()
                try:
                    self._connection = await self._connect()
                except Exception as error:
                    self._tell(error)
                    raise
                self._tell(None)
            return self._connection

    async def _connect(self) -> AbstractConnection:
        connection = Connection(make_url(self._settings.address(self._purpose)))
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()
        except BaseException:
            await connection.close()  # or it would try that when it is forgotten, perhaps in a thread without a loop
            raise
        assert connection.transport is not None
        version = str(connection.transport.connection.server_properties.get("version", "0"))
        major, _, minor = version.partition(".")
        self.version = (_number(major), _number(minor.partition(".")[0]))
        return connection

    def _tell(self, error: Exception | None) -> None:
        """Log once that the server went, and once that it came back."""
        if error is None:
            if self._state == "lost":
                _LOG.warning("broker.back: %s goes on", self._purpose)
            self._state = "there"
        elif self._state == "there":
            _LOG.warning("broker.lost: %s; %s waits until it is back", type(error).__name__, self._purpose)
            self._state = "lost"

    async def unblocked(self) -> None:
        """Return when the server takes messages."""
        connection = await self._connected()
        assert connection.transport is not None
        await connection.transport.ready()

    async def is_blocked(self) -> bool:
        """Tell whether the server is there and has said that it takes no messages now."""
        connection = self._connection
        if connection is None or connection.transport is None or not _is_open(connection):
            return False
        try:
            async with asyncio.timeout(0.01):
                await connection.transport.ready()
        except TimeoutError:
            return True
        return False

    def drop(self) -> None:
        """Give the connection up, without waiting for the server."""
        if self._connection is not None:
            closing = asyncio.create_task(_close(self._connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._connection = None

    async def close(self) -> None:
        """Leave the server for good."""
        self._closed = True
        self.drop()
        if self._closing:
            _, late = await asyncio.wait(self._closing, timeout=self.timeout_s)
            for task in late:
                task.cancel()


def _is_open(connection: AbstractConnection) -> bool:
    return connection.transport is not None and connection.transport.connection.is_opened


async def _close(connection: AbstractConnection) -> None:
    try:
        await connection.close()
    except _AWAY:
        return


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
