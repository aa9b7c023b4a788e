"""The port for the bytes of objects."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

import msgspec

from dicomnode.ports.plugin import Plugin

Buffer = bytes | bytearray | memoryview


class StoredObject(msgspec.Struct, frozen=True):
    """A key that holds something, and its size in bytes."""

    key: str
    size: int


_PART = r"(?!\.\.?(?:/|\Z))[A-Za-z0-9._-]{1,255}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")


def check_key(key: str) -> str:
    """Return `key`, which is safe as a path below a root. Raises: ValueError, which does not quote it."""
    if len(key) > 1024 or _KEY.fullmatch(key) is None:
        raise ValueError("not a storage key")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix`, which is empty or a key and `/`. Raises: ValueError, which does not quote it."""
    if prefix:
        if prefix[-1] != "/":
            raise ValueError("a prefix of storage keys ends with /")
        check_key(prefix[:-1])
    return prefix


class Storage(Plugin):
    """Keep objects under keys: `/`-separated parts of [A-Za-z0-9._-], none of them `.` or `..`.

    A part has at most 255 characters, a key 1024. A key is written once and never again; every other key is refused
    with ValueError, before anything is touched.
    """

    @abstractmethod
    async def put(self, key: str, head: Sequence[Buffer], rest: AsyncIterable[Buffer] | None = None) -> int:
        """Keep the parts of `head`, then those of `rest`, as one object; return its size in bytes.

        When it returns the object survives a crash of the machine (as far as the plugin's fsync option asks for it).
        The buffers are not used after the return. When it raises, also from within `rest` or by cancellation, nothing
        is left under `key`; after a crash of the process a part of the object may be.

        Raises:
            Full: no room; nothing was kept.
            Unavailable: the backend failed; a retry under a new key may succeed.
        """

    @abstractmethod
    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the object's end (None: all the rest).

        Raises: NotFound, Unavailable.
        """

    @abstractmethod
    async def size(self, key: str) -> int | None:
        """Return the size in bytes of what is under `key`, None where there is nothing. Raises: Unavailable."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Have nothing under `keys` any more; a key that holds nothing is no error. Raises: Unavailable."""

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield every object whose key starts with `prefix`, which is empty or ends with `/`; in no set order."""


class LocalPath(ABC):
    """A storage whose objects are files here, so that they can be read without a copy through this process."""

    @abstractmethod
    def path(self, key: str) -> Path:
        """Return where the bytes of `key` are, or would be. Raises: ValueError for what is no key."""


class FreeSpace(ABC):
    """A storage that knows how much room it has, so that senders can be refused before they send."""

    @abstractmethod
    async def free_bytes(self) -> int:
        """Return how many bytes more it can take now, about. Raises: Unavailable."""


class Deferring(ABC):
    """A storage that can keep objects now and have many of them durable at once, later."""

    @property
    @abstractmethod
    def defers(self) -> bool:
        """Whether that saves any time here; where `put` waits for no disk it does not."""

    @abstractmethod
    async def put_soon(self, key: str, head: Sequence[Buffer]) -> int:
        """As `put`; until `settle` the object survives a crash of the process, perhaps not one of the machine."""

    @abstractmethod
    async def settle(self, keys: Sequence[str]) -> None:
        """Return when the objects under `keys` are as durable as after `put`; keys that hold nothing are no error.

        Raises: Unavailable, Full: any of them may be lost. It is raised for these keys until they are deleted and put
            anew: what a disk once failed to write it does not try again.
        """
