"""What every plugin is: typed options, a constructor that does no I/O, an async context manager, a ping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For plugins that have nothing to set."""


class Plugin(ABC):
    """A backend behind a port.

    `Options` is a frozen struct that forbids unknown fields; `options` is one of it. `data_dir` is the node's own
    folder, for defaults; it exists when the plugin is entered, and is not touched before.
    """

    Options: type[msgspec.Struct] = NoOptions

    @abstractmethod
    def __init__(self, options: msgspec.Struct, data_dir: Path) -> None:
        """Remember what is needed; do no I/O."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Open. Raises: ConfigError when the operator must act, Unavailable when the backend is away."""

    async def __aexit__(  # noqa: B027 -- closing is often nothing
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; what was promised durable stays so without it."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the backend answers. Raises: Unavailable, Full."""
